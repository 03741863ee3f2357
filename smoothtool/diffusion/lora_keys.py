"""LoRA files in every dialect, read into one form: module path -> low-rank change of that module's weight.

A key is understood by looking it up in a table of all spellings of the model's real module names; nothing is guessed.
Dialects: diffusers (`unet.….to_q.lora_A.weight`, older `….lora.down.weight`), peft (`base_model.model.…`, with or
without the adapter's name), kohya (`lora_unet_…`, `lora_te_…`), bare attention processors (`….processor.to_q_lora…`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError, safe_open
from torch import nn

from smoothtool.errors import ModelError

METADATA_KEY = "lora_adapter_metadata"
PARTS = ("unet", "text_encoder")

Place = tuple[str, str]
"""(`unet` or `text_encoder`, module path in it)."""

_ENDINGS = {
    ".lora.down.weight": "down", ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down", ".lora_linear_layer.up.weight": "up",
    ".lora_down.weight": "down", ".lora_up.weight": "up",
    ".down.weight": "down", ".up.weight": "up", ".alpha": "alpha",
}  # fmt: skip


@dataclass(frozen=True)
class LowRankChange:
    """W + (alpha / r) up down (Hu et al. 2021, arXiv:2106.09685, eq. 3).

    down  [r, in], for a convolution [r, in, k, k]
    up    [out, r], for a convolution [out, r, 1, 1]
    """

    down: torch.Tensor
    up: torch.Tensor
    alpha: float

    @property
    def rank(self) -> int:
        return len(self.down)


def read_lora(path: Path, parts: Mapping[str, nn.Module]) -> dict[Place, LowRankChange]:
    """Read and check a `.safetensors` LoRA against the modules of `parts` ("unet", "text_encoder").

    Alpha is the file's own tensor, else the adapter metadata's, else the rank.
    Raises: ModelError for other kinds of file, unknown or incomplete or repeated keys, another base model's shapes,
    and numbers that are not finite.
    """
    tensors, header = _open(path)
    modules = {(part, name): module for part in PARTS for name, module in adaptable(parts[part]).items()}
    found = _gather(path, tensors, _spellings(modules))
    _check_complete(path, found)
    settings = _settings(path, header, tensors)
    changes = {}
    for place, pieces in found.items():
        down, up = _fit(path, place, pieces["down"], pieces["up"], modules[place])
        alpha = (
            float(pieces["alpha"]) if "alpha" in pieces else _declared_alpha(settings[place[0]], place[1], len(down))
        )
        changes[place] = LowRankChange(down, up, alpha)
    return changes


def adaptable(part: nn.Module) -> dict[str, nn.Module]:
    """The linear and convolution layers of a model part by their original path, whether or not they carry LoRAs."""
    return {
        name.removesuffix(".base_layer"): module
        for name, module in part.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and ".lora_" not in name
    }


def kohya_name(place: Place) -> str:
    """`lora_unet_down_blocks_0_…`: the path with underscores."""
    part, name = place
    return ("lora_unet_" if part == "unet" else "lora_te_") + name.replace(".", "_")


def _open(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    if path.suffix != ".safetensors":
        raise ModelError(f"{path}: a LoRA is read from .safetensors only, other kinds can run code", "convert the file")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        reason = "does not exist" if not path.exists() else "is not a readable safetensors file"
        raise ModelError(f"{path}: the LoRA {reason}", "check the path, or download the file again") from error


def _spellings(places: Mapping[Place, nn.Module]) -> dict[str, Place]:
    """Every stem under which a file may speak of a module."""
    table = {}
    for part, name in places:
        short = name.removeprefix("text_model.")  # transformers 5.6 dropped this level; files have it or not
        for spelling in (name,) if part == "unet" else (short, f"text_model.{short}"):
            stems = [spelling, f"{part}.{spelling}", kohya_name((part, spelling))]
            stems += [f"base_model.model.{spelling}", f"base_model.model.{part}.{spelling}"]
            if part == "text_encoder":
                stems.append(kohya_name((part, spelling)).replace("lora_te_", "lora_te1_", 1))
            attention, dot, projection = spelling.rpartition(".to_")
            if dot:
                bare = f"{attention}.processor.to_{projection.removesuffix('.0')}_lora"
                stems += [bare, f"{part}.{bare}"]
            table.update(dict.fromkeys(stems, (part, name)))
    return table


def _gather(
    path: Path, tensors: Mapping[str, torch.Tensor], table: Mapping[str, Place]
) -> dict[Place, dict[str, torch.Tensor]]:
    """Sort tensors by module and role; refuse what is unknown, repeated or not finite."""
    found: dict[Place, dict[str, torch.Tensor]] = {}
    unknown, repeated, broken = [], [], []
    for key, tensor in tensors.items():
        stem, role = _split(key)
        if not role or stem not in table or (role == "alpha" and tensor.numel() != 1):
            unknown.append(key)
            continue
        pieces = found.setdefault(table[stem], {})
        if role in pieces:
            repeated.append(key)
        if not bool(torch.isfinite(tensor).all()):
            broken.append(key)
        pieces[role] = tensor
    if not found:
        raise ModelError(
            f"{path}: no layer of this model fits the LoRA ({_first(unknown)})", "the model it was made for"
        )
    for keys, fault in ((unknown, "keys unknown to this model"), (repeated, "a layer given twice"),
                        (broken, "values that are not finite")):  # fmt: skip
        if keys:
            raise ModelError(
                f"{path}: the LoRA has {fault}: {_first(keys)}", "another LoRA, or the model it was made for"
            )
    return found


def _split(key: str) -> tuple[str, str]:
    """Key -> (stem, role); the role is empty when the ending means nothing here."""
    for mark, role in ((".lora_A.", "down"), (".lora_B.", "up")):
        stem, dot, rest = key.partition(mark)  # the rest is `weight`, or `ADAPTER.weight`
        if dot and rest.split(".")[-1] == "weight":
            return stem, role
    for ending, role in _ENDINGS.items():
        if key.endswith(ending):
            return key.removesuffix(ending), role
    return key, ""


def _first(keys: list[str]) -> str:
    shown = ", ".join(keys[:3])
    return f"{shown}, and {len(keys) - 3} more" if len(keys) > 3 else shown or "the file is empty"


def _check_complete(path: Path, found: Mapping[Place, Mapping[str, torch.Tensor]]) -> None:
    half = [".".join(place) for place, pieces in found.items() if not {"down", "up"} <= pieces.keys()]
    if half:
        raise ModelError(f"{path}: the LoRA has only half of the pair for {_first(half)}", "download the file again")


def _fit(
    path: Path, place: Place, down: torch.Tensor, up: torch.Tensor, module: nn.Module
) -> tuple[torch.Tensor, torch.Tensor]:
    """Reshape the pair to what the module needs: 1 x 1 convolutions are stored with or without their two ones."""
    rank, weight = len(down) if down.ndim else 0, module.weight
    assert isinstance(weight, torch.Tensor)
    want_down = (rank, *weight.shape[1:])
    want_up = (len(weight), rank, *(1 for _ in weight.shape[2:]))
    for tensor, want in ((down, want_down), (up, want_up)):
        spatial = tensor.shape[2:]
        same = tensor.shape == want or (tensor.shape[:2] == want[:2] and math.prod(spatial) == math.prod(want[2:]) == 1)
        if rank == 0 or not same:
            raise ModelError(
                f"{path}: the LoRA has shape {list(tensor.shape)} for {'.'.join(place)}, this model needs {list(want)}",
                "the model it was made for",
            )
    return down.reshape(want_down), up.reshape(want_up)


def _settings(path: Path, header: Mapping[str, str], tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, Any]]:
    """The adapter's own settings per model part: from diffusers' header, or from peft's `adapter_config.json`."""
    beside = path.with_name("adapter_config.json")
    peft_file = any(key.startswith("base_model.") for key in tensors) and beside.is_file()
    text = header.get(METADATA_KEY) or (beside.read_text() if peft_file else "{}")
    try:
        settings = json.loads(text)
        if METADATA_KEY not in header:
            return {part: dict(settings) for part in PARTS}
        return {part: {k.removeprefix(f"{part}."): v for k, v in settings.items() if k.startswith(f"{part}.")}
                for part in PARTS}  # fmt: skip
    except (ValueError, TypeError, AttributeError) as error:
        raise ModelError(f"{path}: the LoRA's adapter settings are not readable JSON", "download it again") from error


def _declared_alpha(settings: Mapping[str, Any], name: str, rank: int) -> float:
    patterns = settings.get("alpha_pattern") or {}
    alpha = patterns.get(get_pattern_key(list(patterns), name), settings.get("lora_alpha", rank))
    return float(alpha) * (math.sqrt(rank) if settings.get("use_rslora") else 1.0)
