"""The stations of `edit` that `edit --compare` shares: open the source, edit it once, measure the edit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from smoothtool.commands.edit.methods import EDITS, Source, clip_of
from smoothtool.commands.invert.cached import invert_pictures, open_inversion
from smoothtool.commands.shared.cost import Cost, measured
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.commands.shared.session import SourceFile, fit_pictures
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import SmoothtoolError, UsageError
from smoothtool.figures import EditQuality
from smoothtool.files.pictures.images import crop_back
from smoothtool.jobs import DEFAULT_RATIO, EDIT_INVERSIONS
from smoothtool.metrics.clip_score import Clip
from smoothtool.metrics.reconstruction import reconstruction_quality
from smoothtool.types import Inversion, Track

if TYPE_CHECKING:
    from smoothtool.jobs import EditJob


@dataclass(frozen=True)
class Edit:
    """One edited picture [1, 3, H, W] and what it took."""

    target: str
    ratio: str
    pixel_values: torch.Tensor
    cost: Cost


def open_source(model: DiffusionModel, file: SourceFile, job: EditJob, track: Track, pool: ModelPool) -> Source:
    """Make the picture or the inversion file ready, and invert what has to be inverted.

    Raises: UsageError when an inversion file does not fit the job.
    """
    prompts = [source_prompt(job)]
    if file.picture is None:
        opened = open_inversion(file, model)
        _check_file(job, opened.inversion, opened.info, prompts[0])
        return Source(model, job, track, opened.fitted[0], opened)
    (picture,) = fit_pictures([file.picture], model, job.size)
    name = inversion_for(job)
    if name is None:
        return Source(model, job, track, picture, None)
    inverted = invert_pictures(model, [picture], prompts, job.model_copy(update={"inversion": name}), track, pool)
    return Source(model, job, track, picture, inverted)


def source_prompt(job: EditJob) -> str:
    """The prompt that the picture is inverted under: none for Plug-and-Play."""
    return "" if job.method == "pnp" else job.src


def inversion_for(job: EditJob) -> str | None:
    """The inversion that the job means; None for methods that need none."""
    if job.method == "pix2pix-zero":
        return "regularised"
    fitting, _ = EDIT_INVERSIONS[job.method]
    return next(iter(fitting), None) if job.inversion == "auto" else job.inversion


def _check_file(job: EditJob, inversion: Inversion, info: Mapping[str, Any], prompt: str) -> None:
    if inversion_for(job) is None:
        return  # it takes the picture's latents alone
    fitting, why = EDIT_INVERSIONS[job.method]
    wanted = fitting if job.inversion == "auto" else (job.inversion,)
    if inversion.method not in wanted:
        raise UsageError(
            f"{job.image}: inversion {inversion.method} does not go with --method {job.method}"
            + (f": {why}" if why else ""),
            f"an inversion made with --inversion {' or '.join(wanted)}" if wanted else "the picture itself",
        )
    if len(inversion.prompts) != 1 or inversion.prompts[0] != prompt:
        raise UsageError(
            f"{job.image}: this inversion was made for {' / '.join(map(repr, inversion.prompts))}, not for {prompt!r}",
            f"--src {inversion.prompts[0]!r}, or invert the picture again",
        )
    negative = str(info.get("negative", ""))
    if negative != job.negative:
        raise UsageError(
            f"{job.image}: this inversion was made with the negative prompt {negative!r}, not with {job.negative!r}",
            f"--negative {negative!r}" if negative else "without --negative, or invert the picture again",
        )
    for flag, here, there in (
        ("steps", job.steps, inversion.num_inference_steps),
        ("guidance", job.guidance, inversion.guidance_scale),
    ):
        if here != there:
            raise UsageError(f"{job.image}: this inversion was made with --{flag} {there:g}", f"--{flag} {there:g}")


def ratios_of(job: EditJob) -> list[str]:
    """The switch ratios that are asked for; one that means nothing to the other methods."""
    return (job.ratio or [DEFAULT_RATIO]) if job.method == "switch" else [""]


def edit_key(job: EditJob, target: str, ratio: str) -> tuple[object, ...]:
    """The key of a precomputed edit: in a batch every item has a folder of its own."""
    return job.output, job.method, target, ratio


def one_edit(source: Source, target: str, ratio: str, pool: ModelPool) -> Edit:
    job, edit = source.job, EDITS[source.job.method]
    with measured(source.model) as cost:
        latents = pool.take(
            edit_key(job, target, ratio), source.model, lambda: edit(source, target, float(ratio or DEFAULT_RATIO))
        )
    return Edit(target, ratio, crop_back(source.model.decode_latents(latents), source.picture), cost)


def edit_figures(edit: Edit, before: torch.Tensor, clip: Clip | None) -> EditQuality:
    """What the edit cost, how much of the picture is still there, and how well it fits the target prompt."""
    quality = reconstruction_quality(before, edit.pixel_values)
    figures: EditQuality = {
        "unet_calls": edit.cost.unet_calls,
        "seconds": edit.cost.seconds,
        "peak_memory_mb": edit.cost.peak_memory_mb,
        "to_source": quality,
    }
    if edit.ratio:
        figures["ratio"] = float(edit.ratio)
    if clip is not None:
        figures["clip_score"], figures["clip"] = float(clip.score(edit.pixel_values, [edit.target])[0]), clip.name
    return figures


def clip_if_there(job: EditJob, track: Track) -> Clip | None:
    """A score is a courtesy: without a CLIP the edit is made all the same."""
    try:
        return clip_of(job)
    except SmoothtoolError as error:
        track.note(f"no CLIP score: {error}")
        return None
