"""Open a picture for dragging, drag in it, sample the result: the stations that `drag` and its benchmark share."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import constant, denoise, seeded_noise
from smoothtool.errors import InputError, UsageError
from smoothtool.files.pictures.images import Fitted, crop_back, fit_image, to_image
from smoothtool.jobs import drag_iterations, opened_steps
from smoothtool.jobs.notation import working_size
from smoothtool.methods.drag.dragdiffusion import (
    DragSettings,
    DragStep,
    DragTask,
    drag_steps,
    sample_beside_original,
    unet_look,
)
from smoothtool.methods.drag.fastdrag import warp_latents
from smoothtool.methods.drag.gooddrag import GOODDRAG, GoodDragResult, gooddrag_steps
from smoothtool.methods.inversion.ddim import ddim_inversion_steps
from smoothtool.types import Conditioning, DragPoints, Track

if TYPE_CHECKING:
    from smoothtool.jobs import DragJob

GRID_PX = 2
"""Pixels of the working picture per grid pixel of the drag methods."""


@dataclass(frozen=True)
class Sizes:
    """The sizes of one picture, each (width, height).

    size_px          that points and masks are in
    working_size_px  the same, as the model sees it, without padding
    padded_size_px   with padding
    """

    size_px: tuple[int, int]
    working_size_px: tuple[int, int]
    padded_size_px: tuple[int, int]


@dataclass(frozen=True)
class Opened(Sizes):
    """A picture as latents [1, C, h, w] entering sampling step `start`, with all that sampling on needs."""

    latents: torch.Tensor
    start: int
    text: Conditioning
    null: Conditioning
    guidance_scale: float


@dataclass(frozen=True)
class DragIteration:
    """One iteration: where the handles [P, 2] were found (x, y in pixels of the picture), and its loss."""

    handles_xy_px: tuple[tuple[float, float], ...]
    loss: float


@dataclass(frozen=True)
class Dragged:
    """The result beside the original as the model gives it back, the way of the handles, and seconds per station."""

    before: Image.Image
    after: Image.Image
    path: tuple[DragIteration, ...]
    arrived: bool
    seconds: dict[str, float]


@dataclass(frozen=True)
class _Moved:
    """Latents to sample on from, at `start`."""

    original: torch.Tensor
    latents: torch.Tensor
    start: int
    steps: list[DragStep] = field(default_factory=list)


def first_step(job: DragJob) -> int:
    """The sampling step that dragging happens before.

    Raises: UsageError when strength and steps leave no step.
    """
    opened = opened_steps(job.method, job.strength, job.steps)
    if opened == 0:
        raise UsageError(f"--strength {job.strength:g} of --steps {job.steps} is less than one step", "--strength 0.7")
    return job.steps - opened


def open_picture(model: DiffusionModel, picture: Image.Image, prompt: str, job: DragJob, track: Track) -> Opened:
    """Invert a picture at guidance 1, as far as the strength says."""
    fitted = fit_picture(model, picture, job)
    text = model.encode_prompts([prompt])
    count = job.steps - first_step(job)
    steps = ddim_inversion_steps(model, model.encode_images(fitted.pixel_values), text, job.steps, job.strength)
    *_, last = track(steps, "inverting", count)
    return Opened(*sizes_of(fitted), last.latents, first_step(job), text, text, 1.0)


def sizes_of(fitted: Fitted) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """What `Sizes` holds, of a fitted picture."""
    height, width = fitted.pixel_values.shape[-2:]
    return fitted.original_size_px, fitted.size_px, (width, height)


def open_prompt(model: DiffusionModel, job: DragJob, track: Track) -> Opened:
    """Make a picture from the prompt, as far as the step that dragging happens before."""
    size_px = generated_size_px(model, job)
    shape = model.noise_shape(size_px)
    latents = seeded_noise((1, *shape), job.seed).to(model.device)
    text, null = model.encode_prompts([job.prompt or ""]), model.encode_null(job.negative)
    sampling = denoise(model, latents, constant(text), constant(null), job.steps, job.guidance)
    for step in track(islice(sampling, first_step(job)), "sampling", first_step(job)):
        latents = step.latents
    return Opened(size_px, size_px, size_px, latents, first_step(job), text, null, job.guidance)


def generated_size_px(model: DiffusionModel, job: DragJob) -> tuple[int, int]:
    """(width, height) of a picture made from a prompt.

    Raises: UsageError when it is no multiple of what the model can make.
    """
    _, height, width = model.noise_shape(working_size(job.size))
    return width * model.vae_scale_factor, height * model.vae_scale_factor


def drag(
    model: DiffusionModel, opened: Opened, points: DragPoints, mask: np.ndarray | None, job: DragJob, track: Track
) -> Dragged:
    """Move the latents, then sample the original and the dragged together; and the seconds of both.

    mask  bool [H, W] over the picture, True where it may change; None: everywhere
    """
    started = time.perf_counter()
    moved = model.within_memory(lambda: _MOVES[job.method](model, opened, points, mask, job, track))
    dragging = time.perf_counter() - started
    started = time.perf_counter()
    steps = sample_beside_original(
        model,
        moved.original,
        moved.latents,
        opened.text,
        opened.null,
        job.steps,
        opened.guidance_scale,
        moved.start,
        job.shared_blocks,
    )
    latents = torch.cat([moved.original, moved.latents])
    for step in track(steps, "sampling", job.steps - moved.start):
        latents = step.latents
    before, after = (to_picture(row[None], opened) for row in model.decode_latents(latents))
    path = tuple(DragIteration(_to_pixels(step.handles_rc, opened), step.loss) for step in moved.steps)
    arrived = bool(moved.steps) and moved.steps[-1].arrived
    return Dragged(before, after, path, arrived, {"drag": dragging, "sample": time.perf_counter() - started})


def _dragdiffusion(
    model: DiffusionModel, opened: Opened, points: DragPoints, mask: np.ndarray | None, job: DragJob, track: Track
) -> _Moved:
    task = _task(model, opened, points, mask)
    settings = DragSettings(iterations=drag_iterations(job.method, job.iterations)).on_grid(task.grid_size)
    look = unet_look(
        model, opened.start, job.steps, opened.text, opened.null, opened.guidance_scale, masked=task.region is not None
    )
    steps = list(track(drag_steps(look, opened.latents, task, settings), "dragging", settings.iterations))
    return _Moved(opened.latents, steps[-1].latents, opened.start, steps)


def _gooddrag(
    model: DiffusionModel, opened: Opened, points: DragPoints, mask: np.ndarray | None, job: DragJob, track: Track
) -> _Moved:
    per_step = GOODDRAG.iterations // GOODDRAG.track_every
    denoising_steps = -(-drag_iterations(job.method, job.iterations) // per_step)
    task = _task(model, opened, points, mask)
    records = gooddrag_steps(
        model,
        opened.latents,
        task,
        opened.text,
        opened.null,
        job.steps,
        opened.guidance_scale,
        opened.start,
        GOODDRAG.on_grid(task.grid_size),
        denoising_steps,
    )
    steps: list[DragStep] = []
    for record in track(records, "dragging", denoising_steps * GOODDRAG.iterations):
        if isinstance(record, GoodDragResult):
            return _Moved(record.original, record.latents, record.step_index, steps)
        steps.append(record.drag)
    raise AssertionError("gooddrag_steps ends with its result")


def _fastdrag(
    model: DiffusionModel, opened: Opened, points: DragPoints, mask: np.ndarray | None, job: DragJob, track: Track
) -> _Moved:
    handles, targets = (places_rc(places, opened, 1 / model.vae_scale_factor) for places in _places(points))
    handles, targets = handles.to(model.device), targets.to(model.device)
    region = _region(model, opened, mask)
    flat = around_handles(handles, targets, opened.latents.shape[-2:]) if region is None else region[0, 0] > 0
    return _Moved(opened.latents, warp_latents(opened.latents, handles, targets, flat), opened.start)


_MOVES = {"dragdiffusion": _dragdiffusion, "gooddrag": _gooddrag, "fastdrag": _fastdrag}


def around_handles(handles_rc: torch.Tensor, targets_rc: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Without a mask: bool [h, w], discs around the handles half as wide again as the drag is long."""
    rows, cols = torch.meshgrid(*(torch.arange(side, device=handles_rc.device) for side in size), indexing="ij")
    places = torch.stack([rows, cols], dim=-1).flatten(0, 1)
    # at least 1.5, because the picture's corner lies up to 1.3 from the last latent
    radius = (1.5 * (targets_rc - handles_rc).norm(dim=1)).clamp_min(1.5)
    return (torch.cdist(places.float(), handles_rc) <= radius).any(dim=1).view(*size)


def grid_size(opened: Opened) -> tuple[int, int]:
    """(height, width) of the grid that handles and targets are on."""
    width, height = opened.padded_size_px
    return height // GRID_PX, width // GRID_PX


def _task(model: DiffusionModel, opened: Opened, points: DragPoints, mask: np.ndarray | None) -> DragTask:
    height, width = grid_size(opened)
    limit = torch.tensor([height - 1, width - 1], device="cpu")
    handles, targets = (places_rc(places, opened, 1 / GRID_PX).round().minimum(limit) for places in _places(points))
    return DragTask(handles.to(model.device), targets.to(model.device), (height, width), _region(model, opened, mask))


def _places(points: DragPoints) -> Iterable[tuple[tuple[float, float], ...]]:
    return points.handles_xy_px, points.targets_xy_px


def places_rc(places_xy_px: Sequence[tuple[float, float]], opened: Sizes, scale: float) -> torch.Tensor:
    """Pixels of the picture -> rows and columns of a map that has `scale` of the working picture's size."""
    (width, height), (working_width, working_height) = opened.size_px, opened.working_size_px
    return torch.tensor(
        [[y * working_height / height * scale, x * working_width / width * scale] for x, y in places_xy_px],
        device="cpu",
    )


def _to_pixels(handles_rc: torch.Tensor, opened: Opened) -> tuple[tuple[float, float], ...]:
    (width, height), (working_width, working_height) = opened.size_px, opened.working_size_px
    rows = handles_rc.tolist()
    return tuple((col * GRID_PX * width / working_width, row * GRID_PX * height / working_height) for row, col in rows)


def _region(model: DiffusionModel, opened: Opened, mask: np.ndarray | None) -> torch.Tensor | None:
    """The mask at latent size, float [1, 1, h, w]; the padding may not change. None when everything may.

    Raises: InputError when nothing of the mask is left at that size.
    """
    pixels = pixel_mask(opened, mask)
    if pixels is None:
        return None
    region = F.interpolate(pixels[None, None].float(), opened.latents.shape[-2:], mode="nearest").to(model.device)
    if not bool(region.any()):
        factor = model.vae_scale_factor
        raise InputError(f"the mask is too small: the model sees {factor}x{factor} px as one", "a larger mask")
    return region


def pixel_mask(opened: Sizes, mask: np.ndarray | None) -> torch.Tensor | None:
    """The mask at the size that the model sees, bool [H, W]; the padding is not in it. None when everything is."""
    if mask is None or mask.all():
        return None
    width, height = opened.working_size_px
    pixels = F.interpolate(torch.from_numpy(mask)[None, None].float(), (height, width), mode="nearest")
    padding = (0, opened.padded_size_px[0] - width, 0, opened.padded_size_px[1] - height)
    return F.pad(pixels, padding)[0, 0] > 0


def fit_picture(model: DiffusionModel, picture: Image.Image, job: DragJob) -> Fitted:
    """Raises: UsageError when the size would crop the picture: points are places in the whole of it."""
    size = working_size(job.size)
    if isinstance(size, tuple):
        raise UsageError(f"--size {job.size}: a picture to drag in keeps its shape", f"--size {size[0]}")
    return fit_image(picture, multiple=model.size_multiple, size=size, native_px=model.native_size_px)


def to_picture(pixel_values: torch.Tensor, opened: Sizes) -> Image.Image:
    """Without padding, at the size of the input."""
    fitted = Fitted(pixel_values, opened.working_size_px, opened.size_px)
    picture = to_image(crop_back(pixel_values, fitted))
    return picture if picture.size == opened.size_px else picture.resize(opened.size_px, Image.Resampling.LANCZOS)
