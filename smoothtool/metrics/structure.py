"""Structure distance (Tumanyan et al. 2022, arXiv:2201.00424): how far the self-similarity of a picture has changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from smoothtool.errors import ModelError
from smoothtool.weights.measuring import network_folder

DINO_ID = "facebook/dino-vitb8"
SIDE_PX = 224
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Dino:
    """A vision transformer by name: distances of one are never compared with those of another."""

    name: str
    model: Any

    @torch.no_grad()
    def self_similarity(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Cosines of the last layer's keys, token by token.

        `S[i, j] = <k_i, k_j> / (||k_i|| ||k_j||)`, keys of all heads together, the class token included.
        pixel_values [B, 3, H, W] in [-1, 1] -> [B, T, T].
        """
        size = int(self.model.config.image_size)
        pictures = F.interpolate(pixel_values.float(), (size, size), mode="bilinear", antialias=True)
        mean, std = pictures.new_tensor([IMAGENET_MEAN, IMAGENET_STD]).view(2, 3, 1, 1)
        keys: list[torch.Tensor] = []
        layer = _key_layers(self.model)[-1]
        hook = layer.register_forward_hook(lambda module, inputs, output: keys.append(output))
        try:
            self.model(pixel_values=((pictures + 1) / 2 - mean) / std)
        finally:
            hook.remove()
        directions = F.normalize(keys[0].double(), dim=-1)
        return directions @ directions.mT

    def distance(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Mean squared difference of both self-similarities, a figure per pair -> [B] float64.

        first, second: pixel_values [B, 3, H, W] in [-1, 1].
        """
        difference = self.self_similarity(first) - self.self_similarity(second)
        return difference.square().mean(dim=(1, 2))


def load_dino(source: str | Path = DINO_ID) -> Dino:
    """A ViT from a folder, or from the hub's cache on this machine by id; nothing is downloaded.

    Raises: ModelError when it is not there or cannot be read.
    """
    from transformers import ViTModel

    folder = network_folder(source, "DINO")
    try:
        model = ViTModel.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, add_pooling_layer=False
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{source}: this DINO cannot be read", "a saved ViTModel in safetensors") from error
    return Dino(str(source), model.eval().requires_grad_(False))


def _key_layers(model: Any) -> list[Any]:
    """The linear layers that make keys, in order, whatever the installed transformers calls them."""
    layers = [module for name, module in model.named_modules() if name.split(".")[-1] in ("key", "k_proj")]
    if not layers:
        raise ModelError("DINO: this vision transformer has no key layers", "a saved ViTModel")
    return layers
