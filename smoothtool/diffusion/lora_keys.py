"""LoRA files in every dialect, read into one form: module path -> low-rank change of that module's weight.

A key is understood by looking it up in a table of all spellings of the model's real module names; nothing is guessed.
Dialects: diffusers (`unet.….to_q.lora_A.weight`, older `….lora.down.weight`), peft (`base_model.model.…`, with or
without the adapter's name), kohya (`lora_unet_…`, `lora_te_…`, for SDXL `lora_te1_…` and `lora_te2_…`, with diffusers'
or CompVis' names of blocks), LyCORIS (`lycoris_…`), ComfyUI (`diffusion_model.…`), bare attention processors
(`….processor.to_q_lora…`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from smoothtool.diffusion.ldm_names import ldm_names
from smoothtool.diffusion.lora_kinds import (
    LowRankChange,
    WrongShapeError,
    lacks_pieces,
    low_rank_change,
    other_kind,
)
from smoothtool.diffusion.lora_settings import METADATA_KEY, declared_alpha, read_settings
from smoothtool.errors import ModelError
from smoothtool.readers.regular import is_regular
from smoothtool.readers.tensors import REAL, TensorsFile, TensorsHeader, open_tensors
from smoothtool.weights.kinds import BY_TEXT_WIDTH, XL_TEXT_WIDTH, takes_two_encoders
from smoothtool.weights.lora_names import RANKED, has_second_encoder, split_key, text_widths

__all__ = ["METADATA_KEY", "LayerName", "LowRankChange", "adaptable", "kohya_unet_names", "read_lora"]

IN_FOLDERS = ("adapter_model.safetensors", "pytorch_lora_weights.safetensors")
"""The names that peft and diffusers give to the LoRA in a folder of its own."""

LayerName = tuple[str, str]
"""(model part: `unet`, `text_encoder` or `text_encoder_2`; module path in it)."""

Keys = dict[str, str]
"""Role (as `lora_names.ENDINGS` has it) -> key in the file, of one layer."""


def read_lora(path: Path, parts: Mapping[str, nn.Module]) -> dict[LayerName, LowRankChange]:
    """Read and check a LoRA, a safetensors file or a folder with one, against a model's `lora_parts`.

    Alpha is the file's own tensor, else the adapter metadata's, else the rank.
    Raises: ModelError for other kinds of file, unknown or incomplete or repeated keys, another base model's shapes,
    and numbers that are not finite.
    """
    path = _adapter_file(path)
    with open_tensors(path, hint="another copy of the LoRA") as file:
        modules = {(part, name): module for part, whole in parts.items() for name, module in adaptable(whole).items()}
        _check_family(file.header, parts)
        found = _gather(file.header, _spellings(modules, parts))
        settings = read_settings(file.header, parts)
        changes = {}
        for place, keys in found.items():
            pieces = {role: _numbers(file, key, role) for role, key in keys.items()}
            rank = next((len(pieces[role]) for role in RANKED if role in pieces and pieces[role].ndim), 1)
            own = pieces.get("alpha")
            alpha = declared_alpha(settings[place[0]], place[1], rank) if own is None else float(own)
            changes[place] = _change(path, place, pieces, alpha, modules[place])
        return changes


def adaptable(part: nn.Module) -> dict[str, nn.Module]:
    """The linear and convolution layers of a model part by their original path, whether or not they carry LoRAs."""
    return {
        name.removesuffix(".base_layer"): module
        for name, module in part.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and ".lora_" not in name
    }


def kohya_unet_names(unet: Any) -> dict[str, str]:
    """How kohya's trainers name the UNet's layers: as diffusers for SD 1.x and 2.x, as Stability's program for SDXL."""
    layers = adaptable(unet)
    names = ldm_names(unet, layers) if takes_two_encoders(unet.config) else {}
    return {name: _joined("lora_unet_", names.get(name, name)) for name in layers}


def _joined(prefix: str, name: str) -> str:
    """`lora_unet_down_blocks_0_…`: the path with underscores."""
    return prefix + name.replace(".", "_")


def _adapter_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    inside = next((path / name for name in IN_FOLDERS if is_regular(path / name)), None)
    if inside is None:
        raise ModelError(f"{path}: this folder has no {' and no '.join(IN_FOLDERS)}", "the LoRA's own file")
    return inside


def _numbers(file: TensorsFile, key: str, role: str) -> torch.Tensor:
    """A tensor as float32. Raises: ModelError when it holds no real numbers, or some that are not finite."""
    dtype = file.header.tensors[key].dtype
    if role != "alpha" and dtype not in REAL:
        raise ModelError(f"{file.header.path}: {key} holds {dtype}, not weights", "another copy of the LoRA")
    tensor = file.get(key).float()
    if not bool(torch.isfinite(tensor).all()):
        raise ModelError(f"{file.header.path}: the LoRA has values that are not finite: {key}", "another LoRA")
    return tensor


def _change(
    path: Path, place: LayerName, pieces: Mapping[str, torch.Tensor], alpha: float, module: nn.Module
) -> LowRankChange:
    weight = module.weight
    assert isinstance(weight, torch.Tensor)
    try:
        return low_rank_change(pieces, alpha, weight)
    except WrongShapeError as wrong:
        found, needed = wrong.args
        raise ModelError(
            f"{path}: the LoRA has shape {found} for {'.'.join(place)}, this model needs {needed}",
            "the model it was made for",
        ) from wrong


def _spellings(places: Mapping[LayerName, nn.Module], parts: Mapping[str, nn.Module]) -> dict[str, LayerName]:
    """Every stem under which a file may speak of a module."""
    kohya = {"unet": ["lora_unet_", "lycoris_"], "text_encoder": ["lora_te1_"], "text_encoder_2": ["lora_te2_"]}
    if "text_encoder_2" not in parts:
        kohya["text_encoder"].append("lora_te_")
    table, ldm = {}, ldm_names(parts["unet"], [name for part, name in places if part == "unet"])
    for part, name in places:
        short = name.removeprefix("text_model.")  # transformers 5.6 dropped this level; files have it or not
        for spelling in (name, ldm[name]) if part == "unet" else (short, f"text_model.{short}"):
            stems = [_joined(prefix, spelling) for prefix in kohya[part]]
            stems += [f"{part}.{spelling}", f"base_model.model.{part}.{spelling}"]
            attention, dot, projection = spelling.rpartition(".to_")
            bare = f"{attention}.processor.to_{projection.removesuffix('.0')}_lora" if dot else spelling
            stems.append(f"{part}.{bare}")
            if part != "text_encoder_2":  # without its name a text encoder is the first one
                stems += [spelling, bare, f"base_model.model.{spelling}"]
            if part == "unet":
                stems.append(f"diffusion_model.{spelling}")
            table.update(dict.fromkeys(stems, (part, name)))
    return table


def _check_family(header: TensorsHeader, parts: Mapping[str, nn.Module]) -> None:
    """Raises: ModelError with both names when the LoRA's cross-attention takes another width of text than the model's.

    A LoRA of a text encoder that the model does not have is of another family as well.
    """
    unet: Any = parts["unet"]
    of_model = int(unet.config.cross_attention_dim)
    found = next(text_widths(header), of_model)
    if found == of_model and "text_encoder_2" not in parts and has_second_encoder(header):
        found = XL_TEXT_WIDTH
    if found != of_model:
        theirs, ours = (BY_TEXT_WIDTH.get(width, f"a model with text {width} wide") for width in (found, of_model))
        raise ModelError(f"{header.path}: the LoRA is of {theirs}, and the model is {ours}", f"a LoRA of {ours}")


def _gather(header: TensorsHeader, table: Mapping[str, LayerName]) -> dict[LayerName, Keys]:
    """Sort keys by module and role; refuse what is unknown, repeated or incomplete."""
    found: dict[LayerName, Keys] = {}
    unknown, repeated, alphas = [], [], []
    for key, facts in header.tensors.items():
        stem, role = split_key(key)
        if not role or stem not in table:
            unknown.append(key)
            continue
        if role == "alpha" and math.prod(facts.shape) != 1:
            alphas.append(key)
        keys = found.setdefault(table[stem], {})
        if role in keys:
            repeated.append(key)
        keys[role] = key
    shapes = {key: facts.shape for key, facts in header.tensors.items()}
    if kind := other_kind(unknown, shapes):
        whose = "" if not found else "beside a LoRA it holds "
        raise ModelError(f"{header.path}: {whose or 'this is '}{kind}, which cannot be applied", "a LoRA of this model")
    if not found:
        raise ModelError(
            f"{header.path}: no layer of this model fits the LoRA ({_first(unknown)})", "the model it was made for"
        )
    half = [".".join(place) for place, keys in found.items() if lacks_pieces(keys)]
    for keys_at_fault, fault in (
        (unknown, "keys unknown to this model"),
        (repeated, "a layer given twice"),
        (alphas, "an alpha that is no single number"),
        (half, "only half of what a layer needs"),
    ):
        if keys_at_fault:
            raise ModelError(
                f"{header.path}: the LoRA has {fault}: {_first(keys_at_fault)}",
                "another LoRA, or the model it was made for",
            )
    return found


def _first(keys: list[str]) -> str:
    shown = ", ".join(keys[:3])
    return f"{shown}, and {len(keys) - 3} more" if len(keys) > 3 else shown or "the file is empty"
