"""`drag --method warp`: the pixels themselves are moved, and the model paints what they have uncovered."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from smoothtool.commands.drag.stages import (
    Dragged,
    Sizes,
    around_handles,
    first_step,
    fit_picture,
    generated_size_px,
    pixel_mask,
    places_rc,
    sizes_of,
    to_picture,
)
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import constant, denoise, seeded_noise
from smoothtool.methods.drag.blended import blended_steps
from smoothtool.methods.drag.thing import thing_at
from smoothtool.methods.drag.warp import bidirectional_warp, grown, warped_picture
from smoothtool.types import DragPoints, Track

if TYPE_CHECKING:
    from smoothtool.jobs import DragJob

OUTLINE_OF_512, LEAST_OUTLINE = 4, 2
"""How far in pixels a thing's soft outline reaches beyond what stands out: in a picture of 512, and at least."""


@dataclass(frozen=True)
class Unwarped(Sizes):
    """A picture to be warped, as pixel_values [1, 3, H, W] with padding."""

    pixel_values: torch.Tensor


def open_to_warp(model: DiffusionModel, picture: Image.Image | None, job: DragJob, track: Track) -> Unwarped:
    """The picture, or one made from the prompt; nothing is inverted."""
    if picture is not None:
        fitted = fit_picture(model, picture, job)
        return Unwarped(*sizes_of(fitted), fitted.pixel_values)
    size_px = generated_size_px(model, job)
    return Unwarped(size_px, size_px, size_px, _made(model, job, track))


def warp(
    model: DiffusionModel, opened: Unwarped, points: DragPoints, mask: np.ndarray | None, job: DragJob, track: Track
) -> Dragged:
    """Move the mask's content, or else what lies under the handles, then paint the hole.

    Everything outside the hole keeps its own pixels: it never goes through the VAE.
    """
    started = time.perf_counter()
    handles, targets = (places_rc(places, opened, 1.0) for places in (points.handles_xy_px, points.targets_xy_px))
    region = pixel_mask(opened, mask)
    if region is None:
        region = _found(opened, handles, targets, track)
    moved = bidirectional_warp(region, handles, targets)
    warped = warped_picture(opened.pixel_values, moved)
    warping = time.perf_counter() - started
    started = time.perf_counter()
    after = torch.where(moved.hole, _painted(model, warped, moved.hole, job, track), warped)
    seconds = {"drag": warping, "sample": time.perf_counter() - started}
    before = to_picture(opened.pixel_values, opened)
    return Dragged(before, to_picture(after, opened), (), arrived=False, seconds=seconds)


def _found(opened: Unwarped, handles: torch.Tensor, targets: torch.Tensor, track: Track) -> torch.Tensor:
    """What moves without a mask, bool [H, W]: the thing under the handles with its soft outline, else discs."""
    thing = thing_at(opened.pixel_values, handles)
    if thing is None:
        track.note("nothing stands out under the points, so a disc around each moves; --mask takes something else")
        return around_handles(handles, targets, opened.pixel_values.shape[-2:])
    share = float(thing.float().mean())
    track.note(f"what lies under the points moves, {share:.0%} of the picture; --mask takes something else")
    return grown(thing, max(LEAST_OUTLINE, round(OUTLINE_OF_512 * max(thing.shape) / 512)))


def _painted(
    model: DiffusionModel, warped: torch.Tensor, hole: torch.Tensor, job: DragJob, track: Track
) -> torch.Tensor:
    """The picture [1, 3, H, W] with the hole, bool [H, W], painted by the model.

    Under the empty prompt at guidance 1: a prompt that names what has gone would bring it back.
    """
    latents, null, start = model.encode_images(warped), model.encode_null(), first_step(job)
    cells = F.max_pool2d(hole[None, None].float(), model.vae_scale_factor).to(latents)
    noise = seeded_noise(latents.shape, job.seed).to(latents)
    steps = blended_steps(model, latents, cells, null, null, noise, job.steps, 1.0, start)
    for step in track(steps, "painting", job.steps - start):
        latents = step.latents
    return model.decode_latents(latents)


def _made(model: DiffusionModel, job: DragJob, track: Track) -> torch.Tensor:
    """A picture from the prompt, [1, 3, H, W]."""
    shape = model.noise_shape(generated_size_px(model, job))
    noise = seeded_noise((1, *shape), job.seed).to(model.device)
    text, null = model.encode_prompts([job.prompt or ""]), model.encode_null(job.negative)
    *_, last = track(
        denoise(model, noise, constant(text), constant(null), job.steps, job.guidance), "sampling", job.steps
    )
    return model.decode_latents(last.latents)
