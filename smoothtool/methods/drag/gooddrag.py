"""GoodDrag: spread the dragging over the first denoising steps, and hold each patch to what it was at first.

Zhang et al., GoodDrag, 2024 (arXiv:2404.07206), section 3: alternating drag and denoising, so that what dragging
distorts is repaired before it grows; information-preserving motion supervision (eq. 7). In the form of its program:
the original is denoised alongside, and is the reference at every noise level; the mean over a patch counts (2 r)^2
times, although it has (2 r + 1)^2 entries.

On purpose not as in the program: handles are tracked on the feature of the latents as they are (there, on the feature
before the last update), and dragging does not end when handles have stood still for ten trackings.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from smoothtool.diffusion.ddim import ddim_step
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import guided_noise
from smoothtool.methods.drag.dragdiffusion import DragSettings, DragStep, DragTask, pull, unet_look
from smoothtool.types import Conditioning

GOODDRAG = DragSettings(
    iterations=30,
    learning_rate=0.02,
    patch_radius=4,
    window_radius=12,
    stride=4.0,
    mask_weight=0.2,
    track_every=3,
    hold_original=True,
    side_of_area=0,
)
"""Ten times three updates a denoising step, and the other defaults of the program. It opens pictures at strength 0.75
and learns them in 70 steps; its benchmark ran with a mask weight of 0.1.
"""
DENOISING_STEPS = 7


@dataclass(frozen=True)
class GoodDragStep:
    """One drag iteration inside sampling step `step_index`, with the original's latents there."""

    step_index: int
    original: torch.Tensor
    drag: DragStep


@dataclass(frozen=True)
class GoodDragResult:
    """[1, C, h, w] each: where plain sampling goes on from, at sampling step `step_index`."""

    step_index: int
    original: torch.Tensor
    latents: torch.Tensor


def gooddrag_steps(
    model: DiffusionModel,
    latents: torch.Tensor,
    task: DragTask,
    text: Conditioning,
    null: Conditioning,
    num_inference_steps: int,
    guidance_scale: float,
    start: int,
    settings: DragSettings = GOODDRAG,
    denoising_steps: int = DENOISING_STEPS,
) -> Iterator[GoodDragStep | GoodDragResult]:
    """Drag, denoise one step, drag again, …; ends early when all have arrived. The last record is the result.

    latents  [1, C, h, w] entering sampling step `start`
    """
    pairs = model.schedule.alpha_pairs(num_inference_steps)
    original, handles_rc = latents, task.handles_rc
    for step_index in range(start, min(start + denoising_steps, num_inference_steps)):
        look = unet_look(
            model, step_index, num_inference_steps, text, null, guidance_scale, masked=task.region is not None
        )
        reference = look(original).detach()
        arrived = False
        for step in pull(look, latents, task, settings, handles_rc, reference):
            latents, handles_rc, arrived = step.latents, step.handles_rc, step.arrived
            yield GoodDragStep(step_index, original, step)
        if arrived:
            break
        timestep, alpha_prod, alpha_prod_next = pairs[step_index]
        both = torch.cat([original, latents])
        noise = guided_noise(model, both, timestep, text.expand(2), null.expand(2), guidance_scale)
        original, latents = ddim_step(both, noise, alpha_prod, alpha_prod_next).chunk(2)
    else:
        step_index = min(start + denoising_steps, num_inference_steps)
    yield GoodDragResult(step_index, original, latents)
