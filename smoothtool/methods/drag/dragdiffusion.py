"""DragDiffusion: optimise one latent of the inversion until the picture's features have followed the points.

Shi et al., DragDiffusion, CVPR 2024 (arXiv:2306.14435), algorithm 1 and eqs. 3 to 5, in the form of its program:

    loss = motion supervision + 0.1 sum | (z_hat_{t-1} - z0_{t-1}) (1 - mask) |

The feature of the first iteration is the reference for tracking, so the original is never looked at apart. Without a
mask the noise is not needed and the UNet stops behind the feature block. Weights never require a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from smoothtool.diffusion.attention import attention_layers, each_within, mutual_self_attention
from smoothtool.diffusion.ddim import ddim_step
from smoothtool.diffusion.features import predict_with_feature
from smoothtool.diffusion.layers import layer_choices
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import DenoisingStep, constant, denoise, guide
from smoothtool.methods.drag.feature_grid import FeatureGrid
from smoothtool.methods.drag.motion_supervision import ARRIVED, have_arrived, motion_loss
from smoothtool.methods.drag.point_tracking import track_points
from smoothtool.types import Conditioning

SHARED_BLOCKS = 6 / 16
"""Part of the transformer blocks, the last ones, where the dragged row looks through the original's keys and values."""
SD_GRID = 256
"""Side of the grid that the papers' lengths are meant for: half of 512 px."""
_GRADIENT_SCALE = 2.0**10
"""Gradients of single latents are near 1e-5, where float16 has few digits left; Adam does not see the factor."""


@dataclass(frozen=True)
class DragTask:
    """What is to be moved, on a grid of half the picture's height and width.

    handles_rc, targets_rc  [P, 2] row and column, whole numbers
    grid_size               (H, W)
    region                  [1, 1, h, w] at latent size, 1 where the picture may change; None: everywhere
    """

    handles_rc: torch.Tensor
    targets_rc: torch.Tensor
    grid_size: tuple[int, int]
    region: torch.Tensor | None = None


@dataclass(frozen=True)
class DragSettings:
    """The numbers of the optimisation; the defaults are DragDiffusion's.

    patch_radius, window_radius  grid pixels, of motion supervision and of tracking
    stride          grid pixels that a patch is pulled at once
    track_every     updates between two trackings
    hold_original   the patch must stay what it was at first, not what it has become
    arrived         grid pixels from the target that count as there
    side_of_area    the mean over a patch counts (2 patch_radius + this)^2 times
    """

    iterations: int = 80
    learning_rate: float = 0.01
    patch_radius: int = 1
    window_radius: int = 3
    stride: float = 1.0
    mask_weight: float = 0.1
    track_every: int = 1
    hold_original: bool = False
    arrived: float = ARRIVED
    side_of_area: int = 1

    def on_grid(self, size: tuple[int, int]) -> DragSettings:
        """The same lengths as shares of the picture where the grid is smaller than SD's 256: two pixels of a grid of
        32 are a sixteenth of the picture, and what stops there has not arrived. DragDiffusion's radii are the least.
        """
        share = min(1.0, max(size) / SD_GRID)
        return replace(
            self,
            patch_radius=max(1, round(share * self.patch_radius)),
            window_radius=max(3, round(share * self.window_radius)),
            stride=max(1.0, share * self.stride),
            arrived=max(0.5, share * self.arrived),
        )


@dataclass(frozen=True)
class Sight:
    """Latents as the UNet sees them: their `feature` [1, C', h, w], and one DDIM step further, `previous`, or None."""

    feature: torch.Tensor
    previous: torch.Tensor | None

    def detach(self) -> Sight:
        """The same values without a graph."""
        return Sight(self.feature.detach(), None if self.previous is None else self.previous.detach())


Look = Callable[[torch.Tensor], Sight]


@dataclass(frozen=True)
class DragStep:
    """One iteration done.

    latents     [1, C, h, w] after it
    handles_rc  [P, 2] where the handles were found before it
    loss_on_device  of which its gradient was taken, on the model's device; 0 in the last record, when all have arrived
    """

    iteration: int
    latents: torch.Tensor
    handles_rc: torch.Tensor
    loss_on_device: torch.Tensor | float
    arrived: bool = False

    @property
    def loss(self) -> float:
        """Read when it is asked for: reading waits for a GPU."""
        return float(self.loss_on_device)


def drag_steps(look: Look, latents: torch.Tensor, task: DragTask, settings: DragSettings) -> Iterator[DragStep]:
    """Optimise the latents [1, C, h, w] until every handle has arrived at its target, or no more."""
    return pull(look, latents, task, settings, task.handles_rc)


def pull(
    look: Look,
    latents: torch.Tensor,
    task: DragTask,
    settings: DragSettings,
    handles_rc: torch.Tensor,
    original: Sight | None = None,
) -> Iterator[DragStep]:
    """The loop itself.

    handles_rc  [P, 2] where the handles are believed to be
    original    the picture before any change; None: the latents as they come, whose handles need no search
    """
    latents = latents.detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([latents], lr=settings.learning_rate)
    search = original is not None
    for iteration in range(settings.iterations):
        sight = look(latents)
        original = sight.detach() if original is None else original
        grid = FeatureGrid.over(sight.feature, task.grid_size)
        if iteration % settings.track_every == 0 and (search or iteration):
            looked_for = grid.patches(original.feature, task.handles_rc, 0)[:, :, 0, 0]
            handles_rc = track_points(grid, sight.feature.detach(), handles_rc, looked_for, settings.window_radius)
        if have_arrived(handles_rc, task.targets_rc, settings.arrived):
            yield DragStep(iteration, latents.detach().clone(), handles_rc, 0.0, arrived=True)
            return
        loss = _loss(grid, sight, original, handles_rc, task, settings)
        (gradient,) = torch.autograd.grad(loss * _GRADIENT_SCALE, latents)
        latents.grad = gradient / _GRADIENT_SCALE
        optimizer.step()
        yield DragStep(iteration, latents.detach().clone(), handles_rc, loss.detach())


def _loss(
    grid: FeatureGrid,
    sight: Sight,
    original: Sight,
    handles_rc: torch.Tensor,
    task: DragTask,
    settings: DragSettings,
) -> torch.Tensor:
    """Motion supervision and, where there is a mask, the drift outside it: a scalar, differentiable in `sight`.

    handles_rc  [P, 2] where the handles are now
    """
    radius = settings.patch_radius
    wanted = grid.patches(original.feature, task.handles_rc, radius) if settings.hold_original else None
    loss = motion_loss(
        grid,
        sight.feature,
        handles_rc,
        task.targets_rc,
        radius,
        settings.stride,
        wanted,
        settings.arrived,
        side=2 * radius + settings.side_of_area,
    )
    if task.region is not None and sight.previous is not None and original.previous is not None:
        drift = ((sight.previous - original.previous) * (1 - task.region)).abs().sum()
        loss = loss + settings.mask_weight * drift
    return loss


def unet_look(
    model: DiffusionModel,
    step_index: int,
    num_inference_steps: int,
    text: Conditioning,
    null: Conditioning,
    guidance_scale: float,
    *,
    masked: bool,
) -> Look:
    """How the model sees latents that enter sampling step `step_index`.

    With guidance w the features of both halves count, weighted w/(2w-1) for the text and the rest for the null half.
    text, null  of batch 1
    masked      whether the task has a region, which needs the whole UNet
    """
    timestep, alpha_prod, alpha_prod_next = model.schedule.alpha_pairs(num_inference_steps)[step_index]
    guided, block = guidance_scale != 1, layer_choices(model.unet).drag_block
    conditioning = Conditioning.cat([null, text]) if guided else text

    def look(latents: torch.Tensor) -> Sight:
        """latents [1, C, h, w]; with guidance the feature has the channels of both halves, [1, 2 C', h', w']."""
        rows = torch.cat([latents, latents]) if guided else latents
        noise, feature = predict_with_feature(model, rows, timestep, conditioning, whole=masked, block=block)
        if guided:
            share = guidance_scale / (2 * guidance_scale - 1)
            feature = torch.cat([(1 - share) * feature[:1], share * feature[1:]], dim=1)
            noise = None if noise is None else guide(noise[:1], noise[1:], guidance_scale)
        return Sight(feature, None if noise is None else ddim_step(latents, noise, alpha_prod, alpha_prod_next))

    return look


def sample_beside_original(
    model: DiffusionModel,
    original: torch.Tensor,
    dragged: torch.Tensor,
    text: Conditioning,
    null: Conditioning,
    num_inference_steps: int,
    guidance_scale: float,
    start: int,
    shared_blocks: float = SHARED_BLOCKS,
) -> Iterator[DenoisingStep]:
    """Sample [original, dragged] together; both look through the original's keys and values in the later blocks.

    original, dragged  [1, C, h, w] entering sampling step `start`
    shared_blocks      part of the transformer blocks that are the later ones: more keep more detail, 0 is none
    """
    rows = [0, 0] if guidance_scale == 1 else [0, 0, 2, 2]
    steps = denoise(
        model,
        torch.cat([original, dragged]),
        constant(text.expand(2)),
        constant(null.expand(2)),
        num_inference_steps,
        guidance_scale,
        start,
    )
    count = attention_layers(model.unet)[-1].block_index + 1
    layer = count - round(shared_blocks * count)
    yield from each_within(steps, lambda: mutual_self_attention(model.unet, rows, layer))
