"""The stations of `interpolate`: the ends of a walk, and the frames between them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch

from smoothtool.commands.invert.cached import (
    Inverted,
    invert_pictures,
    invert_trajectory,
    join_trajectories,
    open_inversion,
)
from smoothtool.commands.shared.identity import Fit, learned_identity
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.commands.shared.session import SourceFile, fit_pictures
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.row_loras import LoraState, read_state
from smoothtool.diffusion.sampling import DenoisingStep, constant, denoise, seeded_noise
from smoothtool.errors import UsageError
from smoothtool.figures import InterpolateFigures
from smoothtool.files.pictures.images import Fitted, crop_back
from smoothtool.jobs import SHARED_INVERSION
from smoothtool.jobs.notation import working_size
from smoothtool.methods.interpolation.anid import anid_steps, noise_steps
from smoothtool.methods.interpolation.attention import attention_walk_steps
from smoothtool.methods.interpolation.diffmorpher import (
    BATCH,
    LEARNING_RATE,
    diffmorpher_steps,
    learnt_inversion_steps,
    learnt_sampling_steps,
)
from smoothtool.methods.interpolation.freemorph import freemorph_length, freemorph_steps
from smoothtool.methods.interpolation.rescheduling import rescheduled_ratios
from smoothtool.methods.interpolation.slerp import uniform_ratios
from smoothtool.methods.interpolation.vae import vae_frames
from smoothtool.methods.interpolation.walk import walk_steps
from smoothtool.metrics.sequences import Deviation, deviation
from smoothtool.types import Track

if TYPE_CHECKING:
    from PIL import Image

    from smoothtool.jobs import InterpolateJob


@dataclass(frozen=True)
class Ends:
    """What a walk passes through, K places in order; a loop ends where it began.

    images    [K, C, h, w] latents of the end frames
    noise     [K, C, h, w] where sampling starts; none for vae, anid and freemorph, which start from the pictures
    fitted    how the first picture was fitted; None for a walk between noises
    pictures  how each picture was fitted
    inverted  the shared inversion, where there is one
    loras     what was learned of each picture, for diffmorpher; `learned_before`: some of it from the cache
    """

    images: torch.Tensor
    noise: torch.Tensor
    prompts: tuple[str, ...]
    fitted: Fitted | None = None
    inverted: Inverted | None = None
    pictures: tuple[Fitted, ...] = ()
    loras: tuple[LoraState, ...] = ()
    learned_before: bool = False

    @property
    def from_cache(self) -> bool:
        """Whether anything that it took to find them was not done now."""
        return self.learned_before or (self.inverted is not None and self.inverted.cached)


@dataclass(frozen=True)
class Frames:
    """The whole sequence [F, 3, H, W], ends included; per pair of ends the ratios of its in-betweens."""

    pixel_values: torch.Tensor
    ratios: list[list[float]]
    before_rescheduling: Deviation | None = None

    def figures(self) -> InterpolateFigures:
        figures: InterpolateFigures = {
            "adjacent_l2": deviation(self.pixel_values).figures(),
            "ratios": self.ratios,
        }
        if self.before_rescheduling is not None:
            figures["adjacent_l2_before_rescheduling"] = self.before_rescheduling.figures()
        return figures


def open_ends(
    model: DiffusionModel, files: Sequence[SourceFile], job: InterpolateJob, track: Track, pool: ModelPool
) -> Ends:
    """Two seeded noises, or the pictures: encoded, and inverted together where the method needs it."""
    ends = _noise_ends(model, job, track) if not files else _picture_ends(model, files, job, track, pool)
    if not job.loop:
        return ends
    order = [*range(len(ends.images)), 0]
    noise = ends.noise[order] if len(ends.noise) else ends.noise
    prompts, loras = tuple(ends.prompts[at] for at in order), (*ends.loras, *ends.loras[:1])
    return replace(ends, images=ends.images[order], noise=noise, prompts=prompts, loras=loras)


def frames_between(model: DiffusionModel, ends: Ends, job: InterpolateJob, track: Track) -> Frames:
    """In-betweens at uniform ratios; with `reschedule` once more at those that make the steps equally long."""
    ratios = [uniform_ratios(job.frames)] * (len(ends.images) - 1)
    uniform = _sequence(model, ends, ratios, job, track)
    if not job.reschedule:
        return Frames(uniform, ratios)
    before = deviation(uniform)
    steps = job.frames + 1
    evened = [
        rescheduled_ratios([0.0, *part, 1.0], before.distances[at * steps : (at + 1) * steps], job.frames)
        for at, part in enumerate(ratios)
    ]
    return Frames(_sequence(model, ends, evened, job, track), evened, before)


def _noise_ends(model: DiffusionModel, job: InterpolateJob, track: Track) -> Ends:
    noise = seeded_noise((2, *model.noise_shape(working_size(job.size))), job.seed).to(model.device)
    text, null = model.encode_prompts([job.prompt or ""]), model.encode_null(job.negative)
    steps = denoise(model, noise, constant(text), constant(null), job.steps, job.guidance)
    *_, last = track(steps, "sampling the ends", job.steps)
    return Ends(last.latents, noise, (job.prompt or "",) * 2)


def _picture_ends(
    model: DiffusionModel, files: Sequence[SourceFile], job: InterpolateJob, track: Track, pool: ModelPool
) -> Ends:
    """From pictures, or from inversion files."""
    pictures = [file.picture for file in files if file.picture is not None]
    if 0 < len(pictures) < len(files):
        raise UsageError(
            "inversion files and pictures cannot be mixed in one walk", "smoothtool invert the pictures first"
        )
    opened = [] if pictures else [_open(file, model, job) for file in files]
    prompts = job.src * len(job.images) if len(job.src) == 1 else job.src or [""] * len(job.images)
    if opened and not job.src:
        prompts = [prompt for one in opened for prompt in one.inversion.prompts]
    if job.method not in SHARED_INVERSION:
        ends = _encoded(model, opened, pictures, prompts, job)
        return _learned(model, ends, job, track) if job.method == "diffmorpher" else ends
    inverted = (
        _join(model, opened, prompts, job, track)
        if opened
        else invert_pictures(model, fit_pictures(pictures, model, job.size), prompts, job, track, pool)
    )
    inversion = inverted.inversion
    noise = inversion.trajectory.noise
    fitted = inverted.fitted
    return Ends(inversion.reconstruction, noise, inversion.prompts, fitted[0], inverted, fitted)


def _open(file: SourceFile, model: DiffusionModel, job: InterpolateJob) -> Inverted:
    """An inversion file whose pivots a walk can start from: DDIM's, under the prompts of the walk.

    Raises: UsageError when they are others.
    """
    opened = open_inversion(file, model)
    inversion = opened.inversion
    if inversion.method in OTHER_PIVOTS:
        what = f"{file.name}: the path of inversion {inversion.method} is not DDIM's, which a walk goes along"
        raise UsageError(what, "an inversion made with --inversion nti or ddim, or the picture itself")
    if job.src and job.method in SHARED_INVERSION and not {*inversion.prompts} <= {*job.src}:
        made_for = " / ".join(map(repr, inversion.prompts))
        raise UsageError(
            f"{file.name}: this inversion was made for {made_for}, which is not in --src", "leave --src out"
        )
    return opened


def _encoded(
    model: DiffusionModel,
    opened: Sequence[Inverted],
    pictures: Sequence[Image.Image],
    prompts: Sequence[str],
    job: InterpolateJob,
) -> Ends:
    """The pictures' own latents as ends, without inversion."""
    if opened:
        images, fitted = join_trajectories(opened).image, [one.fitted[0] for one in opened]
    else:
        fitted = fit_pictures(pictures, model, job.size)
        images = model.encode_images(torch.cat([one.pixel_values for one in fitted]))
    return Ends(images, images[:0], tuple(prompts), fitted[0], pictures=tuple(fitted))


def _learned(model: DiffusionModel, ends: Ends, job: InterpolateJob, track: Track) -> Ends:
    """The pictures inverted and given back, each under the LoRA that has learned it."""
    fit, read = Fit(job.lora_steps, LEARNING_RATE, BATCH), partial(read_state, model.lora_parts)
    calls = model.counter.calls
    loras = [
        learned_identity(model, picture, prompt, fit, track, read)
        for picture, prompt in zip(ends.pictures, ends.prompts, strict=True)
    ]
    before = model.counter.calls - calls < len(loras) * job.lora_steps
    text, null = model.encode_prompts(ends.prompts), model.encode_null(job.negative)
    noise, images, most = [], [], max(1, model.max_batch // 2)
    for part in (slice(at, at + most) for at in range(0, len(loras), most)):
        way = learnt_inversion_steps(model, ends.images[part], text[part], loras[part], job.steps)
        *_, inverted = track(way, "inverting", job.steps)
        back = learnt_sampling_steps(
            model, inverted.latents, text[part], loras[part], job.steps, null=null, guidance_scale=job.guidance
        )
        *_, given_back = track(back, "sampling the ends", job.steps)
        noise.append(inverted.latents)
        images.append(given_back.latents)
    return replace(ends, images=torch.cat(images), noise=torch.cat(noise), loras=tuple(loras), learned_before=before)


def _join(
    model: DiffusionModel, opened: Sequence[Inverted], prompts: Sequence[str], job: InterpolateJob, track: Track
) -> Inverted:
    """One shared inversion from the pivots of several files."""
    trajectory = join_trajectories(opened)
    count = len(trajectory.timesteps)
    if count != job.steps:
        raise UsageError(f"the inversion files have {count} steps, the walk {job.steps}", f"--steps {count}")
    inversion = invert_trajectory(model, trajectory, prompts, job, track)
    return Inverted(inversion, tuple(one.fitted[0] for one in opened), opened[0].info)


def _sequence(
    model: DiffusionModel, ends: Ends, ratios: Sequence[Sequence[float]], job: InterpolateJob, track: Track
) -> torch.Tensor:
    """Ends and in-betweens as they are watched, [F, 3, H, W]."""
    pieces = [ends.images[:1]]
    for at, part in enumerate(ratios):
        *_, latents = track(PATHS[job.method](model, ends, at, part, job), "sampling", _path_length(job))
        pieces += [latents, ends.images[[at + 1]]]
    pixel_values = model.decode_latents(torch.cat(pieces))
    return pixel_values if ends.fitted is None else crop_back(pixel_values, ends.fitted)


OTHER_PIVOTS = ("fixed-point", "spdinv", "dci", "edict", "belm")
PathBetween = Callable[[DiffusionModel, Ends, int, Sequence[float], "InterpolateJob"], Iterator[torch.Tensor]]
"""The in-betweens [n, C, h, w] of the pair of ends that begins at an index, after every step of making them."""


def _walk_path(
    walk: Callable[..., Iterator[DenoisingStep]],
    model: DiffusionModel,
    ends: Ends,
    at: int,
    ratios: Sequence[float],
    job: InterpolateJob,
) -> Iterator[torch.Tensor]:
    text, null = model.encode_prompts(ends.prompts[at : at + 2]), model.encode_null(job.negative)
    null_embeds = ends.inverted.inversion.null_embeds if ends.inverted else None
    noise, options = ends.noise[at : at + 2], {"with_adain": job.adain}
    if job.method == "attention":
        options["everywhere"] = job.attention_span == "always"
    for step in walk(model, noise, text, null, null_embeds, ratios, job.steps, job.guidance, **options):
        yield step.latents


def _vae_path(
    model: DiffusionModel, ends: Ends, at: int, ratios: Sequence[float], job: InterpolateJob
) -> Iterator[torch.Tensor]:
    yield vae_frames(ends.images[at : at + 2], ratios)


def _anid_path(
    model: DiffusionModel, ends: Ends, at: int, ratios: Sequence[float], job: InterpolateJob
) -> Iterator[torch.Tensor]:
    text, null = model.encode_prompts(ends.prompts), model.encode_null(job.negative)
    noise = seeded_noise((_levels(job), *ends.images.shape[1:]), job.seed).to(model.device)
    for step in anid_steps(model, ends.images, text, null, noise, _levels(job), job.steps, job.guidance):
        yield step.latents


def _freemorph_path(
    model: DiffusionModel, ends: Ends, at: int, ratios: Sequence[float], job: InterpolateJob
) -> Iterator[torch.Tensor]:
    images, prompts = ends.images[at : at + 2], ends.prompts[at : at + 2]
    text, null = model.encode_prompts(prompts), model.encode_null(job.negative)
    noise = seeded_noise(images[:1].shape, job.seed).to(images)
    for step in freemorph_steps(model, images, text, null, noise, ratios, job.steps, job.guidance):
        yield step.latents


def _diffmorpher_path(
    model: DiffusionModel, ends: Ends, at: int, ratios: Sequence[float], job: InterpolateJob
) -> Iterator[torch.Tensor]:
    pair = slice(at, at + 2)
    text, null = model.encode_prompts(ends.prompts[pair]), model.encode_null(job.negative)
    steps = diffmorpher_steps(
        model, ends.noise[pair], text, ends.loras[pair], ratios, job.steps, null=null, guidance_scale=job.guidance
    )
    for step in steps:
        yield step.latents


PATHS: dict[str, PathBetween] = {
    "slerp": partial(_walk_path, walk_steps),
    "attention": partial(_walk_path, attention_walk_steps),
    "vae": _vae_path,
    "anid": _anid_path,
    "freemorph": _freemorph_path,
    "diffmorpher": _diffmorpher_path,
}


def _path_length(job: InterpolateJob) -> int:
    """How many steps a path takes."""
    if job.method == "anid":
        return noise_steps(_levels(job), job.steps)[0]
    if job.method == "freemorph":
        return freemorph_length(job.steps)
    return 1 if job.method == "vae" else job.steps


def _levels(job: InterpolateJob) -> int:
    """k of the 2^k - 1 frames of ANID."""
    return job.frames.bit_length()
