"""LoRAs that were read, written again: as a file in diffusers' or kohya's keys, or into the weights they change."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from smoothtool.diffusion.ldm_names import ldm_names
from smoothtool.diffusion.lora_keys import METADATA_KEY, LayerName, LowRankChange, adaptable, kohya_unet_names
from smoothtool.errors import ModelError

Changes = Mapping[LayerName, LowRankChange]
KOHYA_ENCODERS = {"text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"}


def diffusers_contents(changes: Changes, metadata: Mapping[str, str]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and header of diffusers' file: alpha is the rank in every layer, so that all readers agree on it.

    What another alpha says is multiplied into the `lora_B` of its layer.
    """
    tensors: dict[str, torch.Tensor] = {}
    for (part, name), change in changes.items():
        stem = f"{part}.{name}" if part == "unet" else f"{part}.text_model.{name.removeprefix('text_model.')}"
        tensors[f"{stem}.lora_A.weight"] = change.down.contiguous()
        tensors[f"{stem}.lora_B.weight"] = (change.up * (change.alpha / change.rank)).contiguous()
    settings: dict[str, Any] = {}
    for part in dict.fromkeys(part for part, _ in changes):
        ranks = {name: change.rank for (owner, name), change in changes.items() if owner == part}
        most = Counter(ranks.values()).most_common(1)[0][0]
        others = {name: rank for name, rank in ranks.items() if rank != most}
        settings |= {f"{part}.r": most, f"{part}.lora_alpha": most, f"{part}.target_modules": sorted(ranks)}
        settings |= {f"{part}.rank_pattern": others, f"{part}.alpha_pattern": others}
    return tensors, {"format": "pt", **metadata, METADATA_KEY: json.dumps(settings, indent=2, sort_keys=True)}


def kohya_contents(
    changes: Changes, parts: Mapping[str, nn.Module], metadata: Mapping[str, str]
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and header of the file that ComfyUI and A1111 read: names with underscores, one alpha for each layer."""
    names = kohya_unet_names(parts["unet"])
    encoders = KOHYA_ENCODERS if "text_encoder_2" in parts else {"text_encoder": "lora_te_"}
    tensors: dict[str, torch.Tensor] = {}
    for (part, name), change in changes.items():
        inner = f"text_model.{name.removeprefix('text_model.')}".replace(".", "_")
        stem = names[name] if part == "unet" else encoders[part] + inner
        tensors[f"{stem}.lora_down.weight"] = change.down.contiguous()
        tensors[f"{stem}.lora_up.weight"] = change.up.contiguous()
        tensors[f"{stem}.alpha"] = torch.tensor(float(change.alpha), device="cpu")
    return tensors, {"format": "pt", **metadata}


def delta(change: LowRankChange, shape: torch.Size) -> torch.Tensor:
    """(alpha / r) up down in float32, in the shape of the weight that it is added to."""
    product = change.up.float().flatten(1) @ change.down.float().flatten(1)
    return (change.alpha / change.rank * product).view(shape)


@torch.no_grad()
def merge_changes(parts: Mapping[str, nn.Module], changes: Changes, scale: float) -> None:
    """W + scale times the change, for every layer; weights keep their dtype, sums are taken in float32."""
    layers = {part: adaptable(module) for part, module in parts.items()}
    for (part, name), change in changes.items():
        weight: Any = layers[part][name].weight
        weight.copy_((weight.float() + scale * delta(change, weight.shape).to(weight.device)).to(weight.dtype))


def single_file_names(changes: Changes, parts: Mapping[str, nn.Module]) -> dict[LayerName, str]:
    """What a single file of SD 1.x or XL calls the weights of these layers.

    Raises: ModelError for layers of an OpenCLIP text encoder, whose file keeps queries, keys and values in one weight.
    """
    ldm = ldm_names(parts["unet"], [name for part, name in changes if part == "unet"])
    two = "text_encoder_2" in parts
    first = "conditioner.embedders.0.transformer." if two else "cond_stage_model.transformer."
    names: dict[LayerName, str] = {}
    for part, name in changes:
        if part == "text_encoder_2":
            raise ModelError(
                "this LoRA changes the second text encoder, which a single file keeps in another shape",
                "a folder instead of a single file",
            )
        inner = f"{first}text_model.{name.removeprefix('text_model.')}"
        names[part, name] = f"{f'model.diffusion_model.{ldm[name]}' if part == 'unet' else inner}.weight"
    return names
