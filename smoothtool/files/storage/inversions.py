"""Inversion files: safetensors that hold every tensor of an `Inversion`, with the rest of it as JSON in the header."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smoothtool.errors import ModelError
from smoothtool.files.storage.tensors import checksum, read_sealed, write_tensors
from smoothtool.files.storage.writing import plain, write_json_atomic
from smoothtool.readers.fields import Fields, as_fields, is_number, is_whole, parse_json
from smoothtool.readers.tensors import open_tensors
from smoothtool.types import Inversion, LatentTrajectory

if TYPE_CHECKING:
    import torch

FORMAT_VERSION = 1
AGAIN = "make it again with invert"
LARGEST_SIDE_PX, LARGEST_PICTURE_PX = 16_384, 178_000_000
HEADER_KEY = "smoothtool"
EXTRA = "extra."
_VERSION = re.compile(r"\d+(\.\w+)+")


def save_inversion(path: Path, inversion: Inversion, info: dict[str, Any]) -> None:
    """Write `path` and, for people and for `cache list`, the same facts without the tensors as JSON beside it.

    info  what the inversion belongs to: fingerprints of model and LoRA, sizes, schedule, dtype, versions, …
    """
    tensors = _tensors(inversion)
    facts = {**_facts(inversion), "info": plain(info), "checksum": checksum(tensors)}
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    write_tensors(path, tensors, {HEADER_KEY: json.dumps(facts)}, seal=True)
    write_json_atomic(sidecar(path), {**facts, "tensors": shapes})


def load_inversion(path: Path) -> tuple[Inversion, dict[str, Any]]:
    """The inversion on the CPU, and the `info` it was saved with. No pickle is ever opened.

    Raises: ModelError when the file is missing, damaged, or something else than an inversion.
    """
    with open_tensors(path, hint=AGAIN) as file:
        _read_facts(path, file.header.metadata)  # other files may be too large to be read whole
    tensors, header = read_sealed(path, hint=AGAIN, known=True)
    facts = _read_facts(path, header)
    if facts.text("checksum", "") != checksum(tensors):
        raise ModelError(f"{path}: the inversion is damaged (its checksum differs)", AGAIN)
    info = facts.fields("info")
    _check_info(info, len(facts.items("prompts")))
    return _assembled(facts, tensors), dict(info.values)


def is_inversion(name: str) -> bool:
    """Whether that input is meant as an inversion file rather than a picture."""
    return name.lower().endswith(".safetensors")


def sidecar(path: Path) -> Path:
    """`inversion.json` beside `inversion.safetensors`."""
    return path.with_suffix(".json")


def _tensors(inversion: Inversion) -> dict[str, torch.Tensor]:
    parts = {
        "latents": inversion.trajectory.latents,
        "reconstruction": inversion.reconstruction,
        "null_embeds": inversion.null_embeds,
        "null_pooled": inversion.null_pooled,
        "sampled": inversion.sampled,
        **{EXTRA + name: tensor for name, tensor in inversion.extra.items()},
    }
    return {name: tensor for name, tensor in parts.items() if tensor is not None}


def _facts(inversion: Inversion) -> dict[str, Any]:
    return plain(
        {
            "format": FORMAT_VERSION,
            "method": inversion.method,
            "timesteps": inversion.trajectory.timesteps,
            "prompts": inversion.prompts,
            "guidance_scale": inversion.guidance_scale,
            "losses": inversion.losses,
            "converged": inversion.converged,
            "unet_calls": inversion.unet_calls,
        }
    )


def _read_facts(path: Path, header: Mapping[str, str]) -> Fields:
    if HEADER_KEY not in header or _VERSION.fullmatch(header[HEADER_KEY]):  # LoRAs say by which smoothtool they are
        raise ModelError(f"{path}: these are weights, not an inversion", "smoothtool invert makes one")
    place = f"{path}: the inversion's header"
    facts = as_fields(parse_json(header[HEADER_KEY], place, ModelError, AGAIN), place, ModelError, AGAIN)
    version = facts.whole("format")
    if version != FORMAT_VERSION:
        raise ModelError(f"{path}: format {version} is not known to this smoothtool", AGAIN)
    return facts


def _check_info(info: Fields, pictures: int) -> None:
    """Sizes decide how large a picture is made. Raises: ModelError."""
    size_px = info.wholes("size_px", [1, 1])
    if len(size_px) != 2 or not all(1 <= side <= LARGEST_SIDE_PX for side in size_px):
        raise info.wrong("size_px", f"two sides up to {LARGEST_SIDE_PX} pixels")
    sizes = info.items("original_sizes_px", [size_px] * pictures)
    if len(sizes) != pictures or not all(_is_size(size) for size in sizes):
        raise info.wrong("original_sizes_px", f"width and height in pixels for each of {pictures} pictures")


def _is_size(size: Any) -> bool:
    pair = isinstance(size, list) and len(size) == 2 and all(map(is_whole, size))
    return pair and min(size) >= 1 and size[0] * size[1] <= LARGEST_PICTURE_PX


def _assembled(facts: Fields, tensors: dict[str, torch.Tensor]) -> Inversion:
    for name in ("latents", "reconstruction"):
        if name not in tensors:
            raise facts.fault(f"{facts.place}: {name} is missing", facts.hint)
    losses = facts.items("losses")
    if not all(loss is None or is_number(loss) for loss in losses):
        raise facts.wrong("losses", "a list of numbers")
    inversion = Inversion(
        method=facts.text("method"),
        trajectory=LatentTrajectory(tensors["latents"], tuple(facts.wholes("timesteps"))),
        reconstruction=tensors["reconstruction"],
        prompts=tuple(facts.texts("prompts")),
        guidance_scale=facts.number("guidance_scale"),
        null_embeds=tensors.get("null_embeds"),
        null_pooled=tensors.get("null_pooled"),
        sampled=tensors.get("sampled"),
        losses=tuple(math.nan if loss is None else loss for loss in losses),
        converged=facts.truth("converged"),
        unet_calls=facts.whole("unet_calls"),
        extra={name.removeprefix(EXTRA): part for name, part in tensors.items() if name.startswith(EXTRA)},
    )
    _check_shapes(inversion, facts)
    return inversion


def _check_shapes(inversion: Inversion, facts: Fields) -> None:
    """Raises: ModelError when the parts do not belong together."""
    steps, latents, null = inversion.num_inference_steps, inversion.trajectory.latents, inversion.null_embeds
    pictures, times, pooled = len(inversion.prompts), inversion.trajectory.timesteps, inversion.null_pooled
    fits = {
        "latents": latents.ndim == 5 and latents.shape[:2] == (steps + 1, pictures) and latents.numel() > 0 < steps,
        "reconstruction": inversion.reconstruction.shape == latents.shape[1:],
        "null_embeds": null is None or (null.ndim == 4 and len(null) == steps and null.shape[1] in (1, pictures)),
        "null_pooled": pooled is None or (pooled.ndim == 2 and len(pooled) in (1, pictures)),
        "sampled": inversion.sampled is None or inversion.sampled.shape == latents.shape,
        "coupled": inversion.method != "edict" or _shape_of(inversion.extra.get("coupled")) == latents.shape,
    }
    wrong = [name for name, right in fits.items() if not right]
    if wrong:
        what = f"{wrong[0]} has another shape than the steps and prompts say"
        raise facts.fault(f"{facts.place}: the inversion is incomplete ({what})", facts.hint)
    if any(later >= earlier for earlier, later in pairwise(times)) or any(not 0 <= time < 10**6 for time in times):
        raise facts.wrong("timesteps", "a falling list of times")
    for part in (latents, inversion.reconstruction, null, inversion.sampled, *inversion.extra.values()):
        if part is not None and not part.is_floating_point():
            raise facts.fault(f"{facts.place}: tensors are whole numbers", facts.hint)


def _shape_of(tensor: torch.Tensor | None) -> torch.Size | None:
    return None if tensor is None else tensor.shape
