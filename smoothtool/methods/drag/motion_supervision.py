"""Motion supervision: pull what lies at each handle one small step towards its target.

Shi et al., DragDiffusion, CVPR 2024 (arXiv:2306.14435), eq. 3 without its mask term:

    loss = sum_i (2 r + 1)^2 mean | F(h_i + offset + d_i) - sg F(h_i + offset) |,  offsets up to r in both directions
    d_i  = (g_i - h_i) / ||g_i - h_i||

GoodDrag (Zhang et al. 2024, arXiv:2404.07206), eq. 7, takes longer steps and holds the patch to the original one at
the original handle, so that errors do not add up.
"""

from __future__ import annotations

import torch

from smoothtool.methods.drag.feature_grid import FeatureGrid

ARRIVED = 2.0
"""Grid pixels: closer points count as arrived and are no longer pulled."""


def motion_loss(
    grid: FeatureGrid,
    feature: torch.Tensor,
    handles_rc: torch.Tensor,
    targets_rc: torch.Tensor,
    radius: int,
    stride: float = 1.0,
    wanted: torch.Tensor | None = None,
    arrived: float = ARRIVED,
    side: int | None = None,
) -> torch.Tensor:
    """The loss, a scalar, differentiable in the feature; arrived handles take no part.

    feature  [1, C, h, w]
    handles_rc, targets_rc  [P, 2] on the grid
    stride   most grid pixels that a patch is pulled at once
    wanted   [P, C, k, k] the patches to arrive; None: those at the handles now
    arrived  grid pixels from the target that count as there
    side     its square weighs the mean over a patch; None: the patch's own, 2 radius + 1
    """
    way = targets_rc - handles_rc
    distance = way.norm(dim=1, keepdim=True)
    ahead = way / distance.clamp_min(arrived) * distance.clamp(max=stride)
    if wanted is None:
        wanted = grid.patches(feature.detach(), handles_rc, radius)
    inside = grid.inside(handles_rc, radius)
    error = (grid.patches(feature, handles_rc + ahead, radius) - wanted).abs().mean(dim=1, keepdim=True) * inside
    per_point = error.sum(dim=(1, 2, 3)) / inside.sum(dim=(1, 2, 3))
    return (side or 2 * radius + 1) ** 2 * (per_point * (distance[:, 0] >= arrived)).sum()


def have_arrived(handles_rc: torch.Tensor, targets_rc: torch.Tensor, arrived: float = ARRIVED) -> bool:
    """Every handle is closer than `arrived` grid pixels to its target."""
    return bool(((targets_rc - handles_rc).norm(dim=1) < arrived).all())
