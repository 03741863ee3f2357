"""Inversion files: safetensors that hold every tensor of an `Inversion`, with the rest of it as JSON in the header."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smoothtool.errors import ModelError
from smoothtool.files.storage.tensors import checksum, write_tensors
from smoothtool.files.storage.writing import plain, write_json_atomic
from smoothtool.types import Inversion, LatentTrajectory

if TYPE_CHECKING:
    import torch

FORMAT_VERSION = 1
HEADER_KEY = "smoothtool"
EXTRA = "extra."


def save_inversion(path: Path, inversion: Inversion, info: dict[str, Any]) -> None:
    """Write `path` and, for people and for `cache list`, the same facts without the tensors as JSON beside it.

    info  what the inversion belongs to: fingerprints of model and LoRA, sizes, schedule, dtype, versions, …
    """
    tensors = _tensors(inversion)
    facts = {**_facts(inversion), "info": plain(info), "checksum": checksum(tensors)}
    shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
    write_tensors(path, tensors, {HEADER_KEY: json.dumps(facts)})
    write_json_atomic(sidecar(path), {**facts, "tensors": shapes})


def load_inversion(path: Path) -> tuple[Inversion, dict[str, Any]]:
    """The inversion on the CPU, and the `info` it was saved with. No pickle is ever opened.

    Raises: ModelError when the file is missing, damaged, or something else than an inversion.
    """
    if not os.path.isfile(path):  # unlike Path.is_file it takes names that no file system could hold
        raise ModelError(f"{path}: there is no such inversion file", "smoothtool invert makes one")
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as opened:
            header = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path}: this is not a safetensors file, or a damaged one", "make it again with invert"
        ) from error
    facts = _read_facts(path, header)
    if facts.get("checksum") != checksum(tensors):
        raise ModelError(f"{path}: the inversion is damaged (its checksum differs)", "make it again with invert")
    try:
        return _assembled(facts, tensors), facts["info"]
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: the inversion is incomplete ({error})", "make it again with invert") from error


def sidecar(path: Path) -> Path:
    """`inversion.json` beside `inversion.safetensors`."""
    return path.with_suffix(".json")


def _tensors(inversion: Inversion) -> dict[str, torch.Tensor]:
    parts = {
        "latents": inversion.trajectory.latents,
        "reconstruction": inversion.reconstruction,
        "null_embeds": inversion.null_embeds,
        "sampled": inversion.sampled,
        **{EXTRA + name: tensor for name, tensor in inversion.extra.items()},
    }
    return {name: tensor for name, tensor in parts.items() if tensor is not None}


def _facts(inversion: Inversion) -> dict[str, Any]:
    return plain({
        "format": FORMAT_VERSION,
        "method": inversion.method,
        "timesteps": inversion.trajectory.timesteps,
        "prompts": inversion.prompts,
        "guidance_scale": inversion.guidance_scale,
        "losses": inversion.losses,
        "converged": inversion.converged,
        "unet_calls": inversion.unet_calls,
    })  # fmt: skip


def _read_facts(path: Path, header: dict[str, str]) -> dict[str, Any]:
    if HEADER_KEY not in header:
        raise ModelError(f"{path}: these are weights, not an inversion", "smoothtool invert makes one")
    try:
        facts = json.loads(header[HEADER_KEY])
        version = facts["format"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ModelError(f"{path}: the inversion's header is damaged", "make it again with invert") from error
    if version != FORMAT_VERSION:
        raise ModelError(f"{path}: format {version} is not known to this smoothtool", "make it again with invert")
    return facts


def _assembled(facts: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Inversion:
    inversion = Inversion(
        method=facts["method"],
        trajectory=LatentTrajectory(tensors["latents"], tuple(facts["timesteps"])),
        reconstruction=tensors["reconstruction"],
        prompts=tuple(facts["prompts"]),
        guidance_scale=facts["guidance_scale"],
        null_embeds=tensors.get("null_embeds"),
        sampled=tensors.get("sampled"),
        losses=tuple(math.nan if loss is None else loss for loss in facts["losses"]),
        converged=facts["converged"],
        unet_calls=facts["unet_calls"],
        extra={name.removeprefix(EXTRA): part for name, part in tensors.items() if name.startswith(EXTRA)},
    )
    _check_shapes(inversion)
    return inversion


def _check_shapes(inversion: Inversion) -> None:
    """Raises: ValueError when the parts do not belong together."""
    steps, latents = inversion.num_inference_steps, inversion.trajectory.latents
    fits = {
        "latents": latents.ndim == 5 and latents.shape[:2] == (steps + 1, len(inversion.prompts)),
        "reconstruction": inversion.reconstruction.shape == latents.shape[1:],
        "null_embeds": inversion.null_embeds is None or len(inversion.null_embeds) == steps,
        "sampled": inversion.sampled is None or inversion.sampled.shape == latents.shape,
    }
    wrong = [name for name, right in fits.items() if not right]
    if wrong:
        raise ValueError(f"{wrong[0]} has another shape than the steps and prompts say")
