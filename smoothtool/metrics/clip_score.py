"""CLIP score (Hessel et al. 2021, arXiv:2104.08718), CLIP image features, and a perceptual distance made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from transformers import CLIPModel, CLIPTokenizer

from smoothtool.diffusion.parts import check_words, read_part, read_tokenizer
from smoothtool.errors import InputError, ModelError
from smoothtool.readers.fields import read_fields
from smoothtool.weights.measuring import network_folder

BATCH = 64
PLAIN_RANGE = ([0.5] * 3, [0.5] * 3)  # mean and deviation of a CLIP without a preprocessor config: pixels in [-1, 1]


@dataclass(frozen=True)
class Clip:
    """A CLIP by name: figures of one CLIP are never compared with figures of another, so the name goes along."""

    name: str
    model: Any  # a CLIPModel, whose config is a union that no checker can follow
    tokenizer: CLIPTokenizer
    image_mean: tuple[float, ...]
    image_std: tuple[float, ...]

    @property
    def image_size_px(self) -> int:
        return int(self.model.config.vision_config.image_size)

    def image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """pixel_values [B, 3, H, W] in [-1, 1] -> [B, D], not normalised, differentiable in the pictures."""
        rows = [self.model.get_image_features(pixel_values=self._prepare(part)) for part in _batches(pixel_values)]
        return torch.cat([getattr(row, "pooler_output", row) for row in rows])

    @torch.no_grad()
    def text_features(self, prompts: Sequence[str]) -> torch.Tensor:
        """[B, D], not normalised. Prompts over CLIP's token limit are cut, as in every published CLIP score."""
        length = int(self.model.config.text_config.max_position_embeddings)
        tokens = self.tokenizer(
            list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        rows = self.model.get_text_features(**tokens)
        return getattr(rows, "pooler_output", rows)

    def score(self, pixel_values: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        """100 max(cos(image, text), 0) per picture and its prompt -> [B] float64.

        Raises: InputError when the counts differ.
        """
        if len(pixel_values) != len(prompts):
            raise InputError(f"{len(pixel_values)} pictures have {len(prompts)} prompts", "one prompt per picture")
        image, text = self.image_features(pixel_values).double(), self.text_features(prompts).double()
        return 100 * F.cosine_similarity(image, text).clamp(min=0)

    def patch_distance(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """A stand-in for LPIPS where its weights cannot be had: the same idea on CLIP's patches -> [B] float64.

        d = mean over layers and patches of || a / ||a|| - b / ||b|| ||^2, a and b the hidden states of a patch.
        Unlike LPIPS the channels carry no learned weights: the figures are no LPIPS and are never called so.
        """
        rows = [self._patch_distance(*pair) for pair in zip(_batches(first), _batches(second), strict=True)]
        return torch.cat(rows)

    def _patch_distance(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        a, b = (F.normalize(self._patches(part), dim=-1) for part in (first, second))
        return (a - b).square().sum(dim=-1).mean(dim=(0, 2))

    def _patches(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Hidden states after every layer, without the class token: [layers, B, patches, D] float64."""
        out = self.model.vision_model(pixel_values=self._prepare(pixel_values), output_hidden_states=True)
        return torch.stack(out.hidden_states[1:])[:, :, 1:].double()

    def _prepare(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Shortest side to CLIP's size (bicubic, antialiased), centre crop, CLIP's mean and deviation."""
        size = self.image_size_px
        pictures = pixel_values.float()
        height, width = pictures.shape[-2:]
        if min(height, width) != size:
            scaled = [max(size, round(side * size / min(height, width))) for side in (height, width)]
            pictures = F.interpolate(pictures, scaled, mode="bicubic", antialias=True).clamp(-1, 1)
        top, left = ((side - size) // 2 for side in pictures.shape[-2:])
        pictures = (pictures[..., top : top + size, left : left + size] + 1) / 2
        mean, std = pictures.new_tensor([self.image_mean, self.image_std]).view(2, 3, 1, 1)
        return (pictures - mean) / std


def load_clip(source: str | Path) -> Clip:
    """A CLIP from a folder, or from the hub's cache on this machine by id; nothing is downloaded.

    Raises: ModelError when it is not there or cannot be read.
    """
    folder = network_folder(source, "CLIP")
    name = f"{folder.parent.name}/{folder.name}" if folder == Path(source) else str(source)
    model = read_part(CLIPModel, folder, "", f"CLIP {source}", torch.float32)
    tokenizer = read_tokenizer(folder, "", f"CLIP {source}")
    check_words(f"CLIP {source}", model.config.text_config, tokenizer)
    mean, std = _pixel_statistics(folder / "preprocessor_config.json")
    return Clip(name, model.requires_grad_(False), tokenizer, tuple(mean), tuple(std))


def _batches(pixel_values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return torch.split(pixel_values, BATCH)


def _pixel_statistics(path: Path) -> tuple[list[float], list[float]]:
    """Mean and deviation of the pixels that the CLIP was trained on. Raises: ModelError."""
    if not path.is_file():
        return PLAIN_RANGE
    settings = read_fields(path, fault=ModelError)
    mean, std = settings.numbers("image_mean"), settings.numbers("image_std")
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise settings.wrong("image_mean" if len(mean) != 3 else "image_std", "three numbers, deviations above 0")
    return mean, std
