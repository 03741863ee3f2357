"""From pictures to their inversion: the station that `invert`, `interpolate` and `edit` share, with its cache."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from smoothtool.commands.invert.methods import INVERSIONS, Start, invert_each
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.commands.shared.session import SourceFile
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import constant, denoise
from smoothtool.errors import ModelError, UsageError
from smoothtool.figures import InvertFigures, QualityFigures
from smoothtool.files.pictures.images import Fitted, crop_back
from smoothtool.files.storage.cache import InversionCache, cache_key
from smoothtool.metrics.reconstruction import reconstruction_quality
from smoothtool.readers.fields import Fields, as_fields, shown
from smoothtool.readers.regular import at_home
from smoothtool.types import Inversion, LatentTrajectory, Track
from smoothtool.version import __version__

if TYPE_CHECKING:
    from smoothtool.jobs import InversionJob


REVISION = EDICT_TAKES_TURNS = 2
"""Of what inversions compute, within one version: the cache holds no answer of an earlier one."""


@dataclass(frozen=True)
class Inverted:
    """An inversion with its pictures' sizes, and whether it had to be computed."""

    inversion: Inversion
    fitted: tuple[Fitted, ...]
    info: dict[str, Any]
    cached: bool = False


def invert_pictures(
    model: DiffusionModel,
    fitted: Sequence[Fitted],
    prompts: Sequence[str],
    job: InversionJob,
    track: Track,
    pool: ModelPool,
) -> Inverted:
    """Invert the pictures together, or take the result from the cache or the pool."""
    pixel_values = torch.cat([picture.pixel_values for picture in fitted])
    settings = inversion_settings(model, prompts, job)
    cache, key = InversionCache(), cache_key(pixel_values, settings)
    info = {**settings, "size_px": list(fitted[0].size_px), "original_sizes_px": [f.original_size_px for f in fitted]}
    found = cache.get(key)
    if found is not None:
        return Inverted(to_device(found[0], model.device), tuple(fitted), info, cached=True)
    inversion = pool.take((key,), model, lambda: compute_inversion(model, fitted, prompts, job, track))
    if note := cache.put(key, inversion, info):
        track.note(note)
    return Inverted(inversion, tuple(fitted), info)


def compute_inversion(
    model: DiffusionModel, fitted: Sequence[Fitted], prompts: Sequence[str], job: InversionJob, track: Track
) -> Inversion:
    """Invert the pictures together, whatever the cache knows."""
    calls, latents = model.counter.calls, model.encode_images(torch.cat([picture.pixel_values for picture in fitted]))
    inversion = INVERSIONS[job.inversion](_start(model, latents, prompts, job, track))
    return replace(inversion, unet_calls=model.counter.calls - calls)


def compute_each(
    model: DiffusionModel, fitted: Sequence[Fitted], prompts: Sequence[str], job: InversionJob, track: Track
) -> list[Inversion]:
    """Invert pictures of one size each for itself, in one batch; counts the calls in which each had its rows."""
    calls, latents = model.counter.calls, model.encode_images(torch.cat([picture.pixel_values for picture in fitted]))
    start = _start(model, latents, prompts, job, track)
    each = invert_each(replace(start, null=start.null[[0] * len(fitted)]))
    return [replace(inversion, unet_calls=model.counter.calls - calls) for inversion in each]


def invert_trajectory(
    model: DiffusionModel, trajectory: LatentTrajectory, prompts: Sequence[str], job: InversionJob, track: Track
) -> Inversion:
    """Turn DDIM pivots into the inversion that the job asks for."""
    return INVERSIONS[job.inversion](
        replace(_start(model, trajectory.image, prompts, job, track), known_pivots=trajectory)
    )


def _start(
    model: DiffusionModel, latents: torch.Tensor, prompts: Sequence[str], job: InversionJob, track: Track
) -> Start:
    text, null = model.encode_prompts(prompts), model.encode_null(job.negative)
    return Start(model, latents, text, null, tuple(prompts), job, track)


def inversion_settings(model: DiffusionModel, prompts: Sequence[str], job: InversionJob) -> dict[str, Any]:
    """All that an inversion depends on besides the pixels: the cache key's second half, kept in inversion files."""
    null_text = ("solver", "inner_steps", "null_anchor", "null_trust")
    read = {
        "nti": null_text,
        "spdinv": ("fixed_point_solver",),
        "dci": ("fixed_point_solver",),
        "regularised": ("seed",),
    }
    return {
        **model.identity(),
        "schedule": model.schedule.config,
        "prompts": list(prompts),
        "steps": job.steps,
        "guidance": job.guidance,
        "inversion": job.inversion,
        "dtype": str(model.dtype).removeprefix("torch."),
        "version": __version__,
        "revision": REVISION,
        **({"negative": job.negative} if job.negative else {}),
        **{key: getattr(job, key) for key in read.get(job.inversion, ())},
    }


def open_inversion(file: SourceFile, model: DiffusionModel) -> Inverted:
    """An inversion file that was read, for this model.

    Raises: ModelError when it was made with other weights or LoRAs.
    """
    assert file.inversion is not None, f"{file.name} is a picture"
    path, (inversion, info) = at_home(file.name), file.inversion
    facts = as_fields(info, f"{path}: the inversion's header", ModelError, "make it again with invert")
    if inversion.method == "edict" and facts.whole("revision", 1) < EDICT_TAKES_TURNS:
        what = f"{path}: an earlier smoothtool moved EDICT's two latents in another order, which would not lead back"
        raise ModelError(what, "invert the picture again")
    if {"model": facts.text("model"), "loras": facts.items("loras")} != model.identity():
        loras = ", ".join(" at ".join(map(str, one)) if isinstance(one, list) else shown(one) for one in info["loras"])
        made_with = f"model {info['model']}, LoRA {loras or 'none'}"
        raise ModelError(
            f"{path}: this inversion belongs to other weights ({made_with})",
            "the --model and --lora it was made with, or invert the picture again",
        )
    (width, height), originals = facts.wholes("size_px"), facts.items("original_sizes_px")
    _check_belongs(model, inversion, (width, height), facts)
    pixel_values = model.decode_latents(inversion.trajectory.image.to(model.device))
    fitted = tuple(
        Fitted(pixel_values[[index]], (width, height), tuple(original)) for index, original in enumerate(originals)
    )
    return Inverted(to_device(inversion, model.device), fitted, info, cached=True)


def _check_belongs(model: DiffusionModel, inversion: Inversion, size_px: tuple[int, int], facts: Fields) -> None:
    """Raises: ModelError when the header names these weights, and the rest could not have come from them."""
    times, null = inversion.trajectory.timesteps, inversion.null_embeds
    sides = tuple(side * model.vae_scale_factor for side in reversed(inversion.trajectory.image.shape[2:]))
    fits = {
        "method": inversion.method in INVERSIONS,
        "timesteps": times == model.schedule.timesteps(len(times)),
        "latents": inversion.trajectory.image.shape[1] == model.unet.config.in_channels,
        "size_px": all(
            side <= padded < side + model.size_multiple for side, padded in zip(size_px, sides, strict=True)
        ),
        "null_embeds": null is None or null.shape[2:] == model.encode_prompts([""]).prompt_embeds.shape[1:],
    }
    for name, right in fits.items():
        if not right:
            raise facts.fault(f"{facts.place}: {name} does not belong to this model", facts.hint)


def note_convergence(inversion: Inversion, track: Track) -> None:
    """Note a null-text fit that ends far from the picture, or a step that was not solved."""
    if not inversion.converged:
        nti = inversion.method == "nti"
        losses = inversion.losses or (math.nan,)  # files of other programs may say nothing of them
        left = f"loss {losses[-1]:.2g} at the last step" if nti else f"residual {max(losses):.2g}"
        remedy = "more --steps, --guidance 3, or a --src that fits" if nti else "more --steps, or a --src that fits"
        note = f"the inversion has not converged ({left}): expect pictures that differ from the input; try {remedy}"
        track.note(note)


def join_trajectories(inverted: Sequence[Inverted]) -> LatentTrajectory:
    """The pivots of several inversion files as one batch.

    Raises: UsageError when sizes or steps differ.
    """
    trajectories = [one.inversion.trajectory for one in inverted]
    shapes = {(t.timesteps, tuple(t.image.shape[1:])) for t in trajectories}
    if len(shapes) > 1:
        raise UsageError(
            "the inversion files differ in picture size or steps", "invert both with the same --size and --steps"
        )
    return LatentTrajectory(torch.cat([t.latents for t in trajectories], dim=1), trajectories[0].timesteps)


def to_device(inversion: Inversion, device: torch.device) -> Inversion:
    def move(value: torch.Tensor | None) -> torch.Tensor | None:
        return None if value is None else value.to(device)

    return replace(
        inversion,
        trajectory=replace(inversion.trajectory, latents=inversion.trajectory.latents.to(device)),
        reconstruction=inversion.reconstruction.to(device),
        null_embeds=move(inversion.null_embeds),
        null_pooled=move(inversion.null_pooled),
        sampled=move(inversion.sampled),
        extra={name: value.to(device) for name, value in inversion.extra.items()},
    )


def unguided_reconstruction(model: DiffusionModel, inversion: Inversion, track: Track) -> torch.Tensor:
    """DDIM's own latents [B, C, h, w] at guidance 1: what the papers' inversion error is without guidance."""
    text = constant(model.encode_prompts(inversion.prompts))
    steps = denoise(model, inversion.trajectory.noise, text, text, inversion.num_inference_steps, 1.0)
    *_, last = track(steps, "reconstructing at guidance 1", inversion.num_inference_steps)
    return last.latents


def inversion_figures(model: DiffusionModel, inverted: Inverted) -> InvertFigures:
    """Quality of the reconstruction beside the VAE's own, the ceiling; losses; what it cost when it was computed."""
    inversion = inverted.inversion
    inputs = torch.cat([crop_back(picture.pixel_values, picture) for picture in inverted.fitted])

    def quality(latents: torch.Tensor) -> QualityFigures:
        return reconstruction_quality(inputs, crop_back(model.decode_latents(latents), inverted.fitted[0]))

    return {
        "reconstruction": quality(inversion.reconstruction),
        "vae": quality(inversion.trajectory.image),
        "converged": inversion.converged,
        "losses": list(inversion.losses),
        "inversion_unet_calls": inversion.unet_calls,
        "cached": inverted.cached,
    }
