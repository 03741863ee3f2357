"""FastDrag: move the latents themselves, in one step and without gradients.

Zhao et al., FastDrag, NeurIPS 2024 (arXiv:2405.15769). Every latent p of the region moves by a share of each drag,

    move(p) = sum_i w_i(p) s_i(p) (g_i - h_i),    w_i ~ 1 / |p - h_i|, adding to one        (latent warpage, eq. 6)
    s_i(p)  = |p q| / |h_i q|,  q where the ray from h_i through p leaves the region's circle  (stretch factor, eq. 4)

and what was left behind is filled from the nearest kept latents in the four directions, weighted by 1 / distance
(bilateral nearest neighbour interpolation, eq. 8).
"""

from __future__ import annotations

import torch

_NEAR = 1e-4
"""Keeps the weights finite at the handles themselves."""


def warp_latents(
    latents: torch.Tensor, handles_rc: torch.Tensor, targets_rc: torch.Tensor, region: torch.Tensor
) -> torch.Tensor:
    """Latents [1, C, h, w] with the region dragged; points [P, 2] in latent pixels, region bool [h, w], not empty."""
    height, width = region.shape
    start = region.nonzero()
    end = (start + _moves(start.float(), handles_rc, targets_rc, region)).round().long()
    limit = torch.tensor([height - 1, width - 1], device=end.device)
    end = torch.minimum(end.clamp_min(0), limit)
    end, first = _first_arrivals(end, width)
    warped, known = latents.clone(), ~region
    warped[..., end[:, 0], end[:, 1]] = latents[..., start[first, 0], start[first, 1]]
    known[end[:, 0], end[:, 1]] = True
    return filled_from_nearest(warped, known)


def _moves(
    points: torch.Tensor, handles_rc: torch.Tensor, targets_rc: torch.Tensor, region: torch.Tensor
) -> torch.Tensor:
    """[M, 2] how far each point of the region goes."""
    centre, radius = _circle(region)
    away = points[:, None] - handles_rc[None]  # [M, P, 2]
    distance = away.norm(dim=-1)
    outward = away / distance.clamp_min(_NEAR)[..., None]
    from_centre = (handles_rc - centre)[None]
    along = (outward * from_centre).sum(-1)
    # a handle outside the circle has no chord there: nothing is stretched beyond it
    to_circle = (along.square() - from_centre.square().sum(-1) + radius**2).clamp_min(0).sqrt() - along
    stretch = (1 - distance / to_circle.clamp_min(_NEAR)).clamp(0, 1)
    weights = 1 / (distance + _NEAR)
    weights = weights / weights.sum(dim=1, keepdim=True)
    return ((weights * stretch)[..., None] * (targets_rc - handles_rc)[None]).sum(dim=1)


def _circle(region: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Centre [2] and radius of the circle around the region's bounding box."""
    points = region.nonzero().float()
    low, high = points.amin(dim=0), points.amax(dim=0)
    return (low + high) / 2, (high - low).norm().clamp_min(1) / 2


def _first_arrivals(end: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Several latents may land on one place: the first keeps it. Returns the places, and who came first."""
    place, index = torch.unique(end[:, 0] * width + end[:, 1], return_inverse=True)
    first = torch.full_like(place, len(end)).scatter_reduce(
        0, index, torch.arange(len(end), device=end.device), reduce="amin"
    )
    return torch.stack([place // width, place % width], dim=1), first


def filled_from_nearest(latents: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Give every unknown latent the weighted mean of the nearest known ones to its left, right, top and bottom."""
    total, weight = torch.zeros_like(latents), torch.zeros_like(known, dtype=latents.dtype)
    for dim, backwards in ((0, False), (0, True), (1, False), (1, True)):
        nearest, distance = _nearest_before(known, dim, backwards)
        share = torch.where(distance > 0, 1 / distance.clamp_min(1), 0.0)
        values = latents.gather(dim + 2, nearest.expand_as(latents))
        total, weight = total + share * values, weight + share
    return torch.where(known | (weight == 0), latents, total / weight.clamp_min(_NEAR))


def _nearest_before(known: torch.Tensor, dim: int, backwards: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Index along `dim` of the last known place before each, and how far it is; distance 0 where there is none."""
    flipped = known.flip(dim) if backwards else known
    length = known.shape[dim]
    position = (
        torch.arange(length, device=known.device).view(-1, 1) if dim == 0 else torch.arange(length, device=known.device)
    )
    position = position.expand_as(known)
    last = torch.where(flipped, position, -1).cummax(dim=dim).values
    distance = torch.where(last >= 0, position - last, 0).float()
    last = last.clamp_min(0)
    if backwards:
        last, distance = length - 1 - last.flip(dim), distance.flip(dim)
    return last, distance
