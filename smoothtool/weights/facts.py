"""What the small files and the headers of a model or LoRA say of it; no weight is read, torch is not needed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smoothtool.errors import ModelError
from smoothtool.readers.fields import Fields, read_fields
from smoothtool.readers.tensors import TensorsHeader, read_header
from smoothtool.weights.kinds import BY_TEXT_WIDTH, CONFIGS, SD1, SD2, SDXL, XL_TEXT_WIDTH
from smoothtool.weights.lora_names import dialect_of, has_second_encoder, ranks_of, text_widths
from smoothtool.weights.models import KNOWN, ModelLocation, find_model
from smoothtool.weights.passes import latents_a_side
from smoothtool.weights.published import choose_variant, weights_of

PARTS = {"unet": "UNet", "vae": "VAE", "text_encoder": "text encoder", "text_encoder_2": "second text encoder"}
PREFIXES = {
    "model.diffusion_model.": "UNet",
    "first_stage_model.": "VAE",
    "cond_stage_model.": "text encoder",
    "conditioner.embedders.0.": "text encoder",
    "conditioner.embedders.1.": "second text encoder",
}
"""How the weights of a part begin in a single file."""
CROSS_ATTENTION = ".attn2.to_k.weight"
TRAINED_WITH = ("base_model", "lambda", "steps", "ss_base_model_version", "ss_network_dim", "ss_network_alpha")
"""What trainers, ours and kohya's, write into the header of a LoRA."""
Facts = dict[str, Any]
SHIPPED = {768: "sd1", 1024: "sd2", XL_TEXT_WIDTH: "sdxl"}
"""Folders in `CONFIGS`, by the width of the text that cross-attention takes."""
PARAMETERS = {
    SD1: {"UNet": 860_000_000, "VAE": 84_000_000, "text encoder": 123_000_000},
    SD2: {"UNet": 866_000_000, "VAE": 84_000_000, "text encoder": 340_000_000},
    SDXL: {
        "UNet": 2_567_000_000,
        "VAE": 84_000_000,
        "text encoder": 123_000_000,
        "second text encoder": 695_000_000,
    },
}
"""Of models that are not on this machine."""


@dataclass(frozen=True)
class Shape:
    """unet, vae: the contents of their config.json; parameters: numbers by part, named as in `PARTS`."""

    unet: Mapping[str, Any]
    vae: Mapping[str, Any]
    parameters: Mapping[str, int]


def model_facts(place: ModelLocation) -> Facts:
    """architecture, prediction type, native size, parameters and dtype by part, files with their bytes.

    Raises: ModelError when a file of it cannot be read.
    """
    return _of_folder(place.folder) if place.folder is not None else _of_file(place.single_file)


def model_shape(name: str) -> Shape | None:
    """What is known of a model before it is loaded, or even downloaded; None for one of another kind.

    Raises: ModelError when a file of it cannot be read.
    """
    place, known = find_model(name), KNOWN.get(name)
    if place is not None and place.folder is not None:
        return _shape_in(place.folder, _of_folder(place.folder)["parameters"])
    if place is not None:
        found = _of_file(place.single_file)
        architecture, parameters = found["architecture"], found["parameters"]
    else:
        architecture = known.architecture if known else ""
        parameters = PARAMETERS.get(architecture, {})
    shipped = next(
        (SHIPPED[width] for width, kind in BY_TEXT_WIDTH.items() if kind == architecture and width in SHIPPED),
        None,
    )
    return None if shipped is None else _shape_in(CONFIGS / shipped, parameters)


def _shape_in(folder: Path, parameters: Mapping[str, int]) -> Shape:
    unet, vae = (_json(folder / part / "config.json").values for part in ("unet", "vae"))
    return Shape(unet, vae, parameters)


def lora_facts(path: Path) -> Facts:
    """architecture, format of the keys, rank, layers, parameters, dtype, what its trainer wrote, files.

    path  the file, or a folder of peft or diffusers with one inside
    Raises: ModelError.
    """
    files = sorted(path.glob("*.safetensors"), key=lambda file: file.stem) if path.is_dir() else [path]
    if not files:
        raise ModelError(f"{path}: this folder has no .safetensors", "the LoRA's own file")
    header = read_header(files[0], hint="another copy of the LoRA")
    ranks = Counter(ranks_of(header).values())
    if not ranks:
        raise ModelError(f"{path}: this is no LoRA: none of its tensors is named like one", "smoothtool models info")
    return {
        "architecture": _lora_architecture(header),
        "format": dialect_of(header) or "bare names",
        "rank": ", ".join(str(rank) if rank else "full" for rank, _ in ranks.most_common()),
        "layers": ranks.total(),
        "parameters": _numbers(header),
        "dtype": _dtypes([header]),
        "training": _training(header),
        "files": _files(files),
    }


def _of_folder(folder: Path) -> Facts:
    unet = _json(folder / "unet" / "config.json")
    width = unet.values.get("cross_attention_dim")
    headers = {part: _headers(folder / part) for part in PARTS if (folder / part).is_dir()}
    pixels = 2 ** (len(_json(folder / "vae" / "config.json").items("block_out_channels", [0] * 4)) - 1)
    found = BY_TEXT_WIDTH.get(width, "Stable Diffusion") if isinstance(width, int) else "Stable Diffusion"
    return {
        "architecture": found,
        "prediction": _json(folder / "scheduler" / "scheduler_config.json").text("prediction_type", "epsilon"),
        "native size": f"{latents_a_side(unet.values) * pixels} px" if "sample_size" in unet else "not stated",
        "parameters": {PARTS[part]: sum(map(_numbers, found)) for part, found in headers.items()},
        "dtype": _dtypes(header for found in headers.values() for header in found),
        "files": _files(header.path for found in headers.values() for header in found),
    }


def _of_file(path: Path | None) -> Facts:
    assert path is not None
    header = read_header(path)
    cross = next((facts for key, facts in header.tensors.items() if key.endswith(CROSS_ATTENTION)), None)
    width = cross.shape[-1] if cross is not None and cross.shape else 0
    parts: Counter[str] = Counter()
    for key, facts in header.tensors.items():
        parts[next((name for mark, name in PREFIXES.items() if mark in key), "other")] += math.prod(facts.shape)
    said = header.metadata.get("modelspec.prediction_type") or ("v_prediction" if "v_pred" in header.tensors else "")
    return {
        "architecture": BY_TEXT_WIDTH.get(width, "unknown"),
        "prediction": said or "not stated; found out from the weights when it is loaded",
        "native size": header.metadata.get("modelspec.resolution", "not stated"),
        "parameters": dict(parts),
        "dtype": _dtypes([header]),
        "files": _files([path]),
    }


def _lora_architecture(header: TensorsHeader) -> str:
    if has_second_encoder(header):
        return SDXL
    width = next(text_widths(header), 0)
    return BY_TEXT_WIDTH.get(width, f"text {width} wide" if width else "unknown: no cross-attention in it")


def _training(header: TensorsHeader) -> dict[str, str]:
    return {key: header.metadata[key] for key in TRAINED_WITH if header.metadata.get(key)}


def _headers(folder: Path) -> list[TensorsHeader]:
    """Of the weights in a part's folder: its variants, such as fp16, would count twice, and are left out."""
    names = [path.name for path in folder.iterdir()]
    variant = choose_variant(names)
    found = [] if variant is None else weights_of(names, variant)
    return [read_header(folder / name) for name in found if name.endswith(".safetensors")]


def _numbers(header: TensorsHeader) -> int:
    return sum(math.prod(facts.shape) for facts in header.tensors.values())


def _dtypes(headers: Iterable[TensorsHeader]) -> str:
    """Those of the weights, the most frequent first: counters and ids in a file are no weights."""
    sizes: Counter[str] = Counter()
    for header in headers:
        for facts in header.tensors.values():
            if "F" in facts.dtype:
                sizes[facts.dtype] += math.prod(facts.shape)
    return ", ".join(dtype for dtype, _ in sizes.most_common()) or "none"


def _files(paths: Iterable[Path]) -> dict[str, int]:
    return {str(path): path.stat().st_size for path in paths}


def _json(path: Path) -> Fields:
    return read_fields(path, fault=ModelError, hint="another copy of the model")


def about_parameters(found: int | Mapping[str, int]) -> str:
    """`UNet 860 M, VAE 84 M`, or of a LoRA `1.60 M`."""
    if isinstance(found, int):
        return f"{found / 1e6:.2f} M"
    return ", ".join(f"{name} {count / 1e6:.1f} M" for name, count in found.items())
