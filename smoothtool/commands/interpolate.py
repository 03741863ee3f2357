"""`smoothtool interpolate`: pictures into each other, or a walk between two noises."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from smoothtool.commands.invert import inversion_figures, note_convergence
from smoothtool.commands.inverting import (
    Inverted,
    invert_pictures,
    invert_trajectory,
    join_trajectories,
    load_pictures,
    open_inversion,
    working_size,
)
from smoothtool.commands.session import describe_model, note_cut_prompts, open_session, start_report, with_seed
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import constant, denoise
from smoothtool.errors import UsageError
from smoothtool.files.images import crop_back, save_image, to_image
from smoothtool.files.output import new_folder
from smoothtool.files.reports import job_document, write_report
from smoothtool.files.sequences import save_webm, save_webp
from smoothtool.files.sheets import contact_sheet
from smoothtool.methods.interpolation.slerp import uniform_ratios
from smoothtool.methods.interpolation.walk import walk_starts, walk_steps
from smoothtool.metrics.sequences import deviation
from smoothtool.types import Report, Track

if TYPE_CHECKING:
    from smoothtool.jobs import InterpolateJob


@dataclass(frozen=True)
class _Walk:
    """The frames [F, 3, H, W] in order, and what is known about their ends."""

    pixel_values: torch.Tensor
    figures: dict[str, Any]


def run(job: InterpolateJob, track: Track) -> Report:
    """Make the sequence; leaves frames/, sheet.png, walk.webp, walk.webm, report.json, job.yaml."""
    job = with_seed(job)
    report = start_report(job, job.images or [job.prompt or "walk"])
    with new_folder(report.folder, job.force) as folder:
        # 1. model
        started = time.perf_counter()
        model = open_session(job, track)
        note_cut_prompts(model, [*job.src, job.prompt or ""], track, report)
        report.seconds["load"] = time.perf_counter() - started
        # 2. frames
        walk = _walk_pictures(model, job, track, report) if job.images else _walk_noise(model, job, track, report)
        # 3. measure and write
        started = time.perf_counter()
        report.figures = {"adjacent_l2": asdict(deviation(walk.pixel_values)), **walk.figures}
        report.files = _write(folder, walk.pixel_values, job, report)
        report.seconds["write"] = time.perf_counter() - started
        report.model, report.unet_calls = describe_model(model), model.counter.calls
        write_report(report, folder)
    return report


def _walk_pictures(model: DiffusionModel, job: InterpolateJob, track: Track, report: Report) -> _Walk:
    """Shared inversion, slerp of the noise ends, one batch of in-between frames; the ends are the reconstructions."""
    started = time.perf_counter()
    inverted = _shared_inversion(model, job, track)
    note_convergence(inverted, track, report)
    report.seconds["invert"] = time.perf_counter() - started
    started = time.perf_counter()
    inversion, ratios = inverted.inversion, uniform_ratios(job.frames)
    order = [*range(len(job.images)), *([0] if job.loop else [])]
    text, null = model.encode_prompts([inversion.prompts[at] for at in order]), model.encode_prompts([""])
    steps = walk_steps(
        model, inversion.trajectory.noise[order], text, null, inversion.null_embeds, ratios, job.steps, job.guidance
    )
    *_, last = track(steps, "sampling", job.steps)
    report.seconds["sample"] = time.perf_counter() - started
    latents = _interleave(inversion.reconstruction[order], last.latents, job.frames)
    pixel_values = crop_back(model.decode_latents(latents), inverted.fitted[0])
    return _Walk(pixel_values, {"inversion": inversion_figures(model, inverted)})


def _walk_noise(model: DiffusionModel, job: InterpolateJob, track: Track, report: Report) -> _Walk:
    """The walk between two seeded Gaussian noises under one prompt, or round a loop of them."""
    started = time.perf_counter()
    side = working_size(job.size) or model.native_size_px
    width, height = (side, side) if isinstance(side, int) else side
    multiple, factor = model.size_multiple, model.vae_scale_factor
    if width % multiple or height % multiple:
        raise UsageError(f"--size {job.size}: a noise walk needs multiples of {multiple} pixels", f"--size {multiple * 8}")
    shape = (2, int(model.unet.config.in_channels), height // factor, width // factor)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(report.job["seed"])).to(model.device)
    ends = noise[[0, 1, 0]] if job.loop else noise
    starts = _interleave(ends, walk_starts(ends, uniform_ratios(job.frames)), job.frames)
    text, null = model.encode_prompts([job.prompt or ""]), model.encode_prompts([""])
    *_, last = track(denoise(model, starts, constant(text), constant(null), job.steps, job.guidance), "sampling", job.steps)
    report.seconds["sample"] = time.perf_counter() - started
    return _Walk(model.decode_latents(last.latents), {})


def _shared_inversion(model: DiffusionModel, job: InterpolateJob, track: Track) -> Inverted:
    """One inversion for all pictures: from pictures, or from inversion files."""
    files = [name.endswith(".safetensors") for name in job.images]
    prompts = job.src * len(job.images) if len(job.src) == 1 else job.src or [""] * len(job.images)
    if not any(files):
        return invert_pictures(model, load_pictures(job.images, model, job.size), prompts, job, track)
    if not all(files):
        raise UsageError("inversion files and pictures cannot be mixed in one walk", "smoothtool invert the pictures first")
    opened = [open_inversion(Path(name), model) for name in job.images]
    trajectory = join_trajectories(opened)
    if len(trajectory.timesteps) != job.steps:
        raise UsageError(
            f"the inversion files have {len(trajectory.timesteps)} steps, the walk {job.steps}",
            f"--steps {len(trajectory.timesteps)}",
        )
    kept = job.src and prompts or [prompt for one in opened for prompt in one.inversion.prompts]
    inversion = invert_trajectory(model, trajectory, kept, job, track)
    return Inverted(inversion, tuple(one.fitted[0] for one in opened), opened[0].info)


def _interleave(ends: torch.Tensor, betweens: torch.Tensor, frames: int) -> torch.Tensor:
    """ends [K, …] and betweens [(K-1) * frames, …] in the order they are watched."""
    pieces = [piece for end, part in zip(ends[:-1], betweens.split(frames), strict=True) for piece in (end[None], part)]
    return torch.cat([*pieces, ends[-1:]])


def _write(folder: Path, pixel_values: torch.Tensor, job: InterpolateJob, report: Report) -> dict[str, Any]:
    pictures = [to_image(frame) for frame in pixel_values]
    settings = job_document(job.command, report.job)
    (folder / "frames").mkdir()
    names = [f"frames/{index:03d}.png" for index in range(len(pictures))]
    for name, picture in zip(names, pictures, strict=True):
        save_image(picture, folder / name, settings=settings, parameters=None)
    shown = pictures[:-1] if job.loop else pictures  # a loop shows its first frame once a round
    save_webp(shown, folder / "walk.webp", job.fps, ping_pong=not job.loop)
    save_webm(shown, folder / "walk.webm", job.fps)
    contact_sheet(_rows(pictures)).save(folder / "sheet.png")
    return {"frames": names, "sheet": "sheet.png", "webp": "walk.webp", "webm": "walk.webm"}


def _rows(pictures: Sequence[Image.Image], widest: int = 11) -> list[list[Image.Image]]:
    return [list(pictures[at : at + widest]) for at in range(0, len(pictures), widest)]
