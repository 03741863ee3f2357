"""Bidirectional warping: move a region of the picture itself, then paint what it uncovers. No gradients.

Lu & Han, Inpaint4Drag, ICCV 2025 (arXiv:2509.04582), section 3.2. With N4(p) the four nearest of a set of places and
w_i(p) ~ 1 / |p - c_i| adding to one over them:

    forwards   every place s of the region goes to   t = s + sum over N4(s) of the handles  w_i(s) (g_i - h_i)
    backwards  every place q of the target comes from  q + sum over N4(q) of the t_j         w_j(q) (s_j - t_j)

and takes the picture's value from there. What the region has left behind, and a seam along the border of where it went,
is to be painted (`blended_steps`; the paper uses an in-painting model). Where this differs from the program: a place q
belongs to the target when it comes from inside the region, while the program fills the moved outline, holes and all;
places are not rounded to pixels, so values are bilinear between four of them; and 1,024 pairs stand for the whole
region, not 100.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from smoothtool.errors import InputError
from smoothtool.methods.drag.fastdrag import filled_from_nearest

NEIGHBOURS = 4
MOST_PAIRS = 1024
"""Pairs that the way back is read from: spread evenly over the region, the motion being smooth."""
SEAM_OF_512 = 2
"""Half the width in pixels of the seam that is painted over, in a picture of 512."""
_NEAR = 1e-6
_AT_ONCE = 8192


@dataclass(frozen=True)
class Warp:
    """Where a warped picture takes its values from.

    target_rc  [M, 2] whole rows and columns that get new values
    source_rc  [M, 2] fractional ones, where these come from
    hole       bool [H, W], what has to be painted
    """

    target_rc: torch.Tensor
    source_rc: torch.Tensor
    hole: torch.Tensor


def bidirectional_warp(
    region: torch.Tensor, handles_rc: torch.Tensor, targets_rc: torch.Tensor, most_pairs: int = MOST_PAIRS
) -> Warp:
    """How a picture changes when its region follows the handles; every connected part follows those inside it.

    region  bool [H, W], what moves
    handles_rc, targets_rc  [P, 2] rows and columns in pixels
    A part without a handle stays.
    Raises: InputError when no handle lies inside the region.
    """
    labels = connected_parts(region)
    last = torch.tensor(region.shape, device=region.device) - 1
    at = _labels_at(labels, handles_rc.minimum(last))  # a handle may lie up to a pixel behind the last one's middle
    target_rc, source_rc, left, reached = [], [], torch.zeros_like(region), torch.zeros_like(region)
    for label in at[at > 0].unique():
        part, mine = labels == label, at == label
        places, sources = _moved(part, handles_rc[mine], targets_rc[mine], most_pairs)
        target_rc.append(places)
        source_rc.append(sources)
        left |= part
        reached[places[:, 0], places[:, 1]] = True
    if not target_rc:
        raise InputError("no point lies inside the mask, which is what moves", "a mask that holds the points")
    return Warp(torch.cat(target_rc), torch.cat(source_rc), _hole(left, reached))


def warped_picture(pixel_values: torch.Tensor, warp: Warp) -> torch.Tensor:
    """pixel_values [1, 3, H, W] -> the same, warped; the hole holds the weighted mean of its nearest kept pixels."""
    height, width = pixel_values.shape[-2:]
    scale = torch.tensor([height, width], device=pixel_values.device)
    grid = ((2 * warp.source_rc + 1) / scale - 1).flip(-1).view(1, 1, -1, 2)
    values = F.grid_sample(pixel_values, grid.to(pixel_values), padding_mode="border", align_corners=False)
    warped = pixel_values.clone()
    warped[..., warp.target_rc[:, 0], warp.target_rc[:, 1]] = values[:, :, 0]
    return filled_from_nearest(warped, ~warp.hole)


def follow(places: torch.Tensor, known: torch.Tensor, moves: torch.Tensor) -> torch.Tensor:
    """places [M, 2] and how they move, [M, 2]: the mean of their four nearest of `known` [K, 2], by 1 / distance."""
    count = min(NEIGHBOURS, len(known))
    moved = []
    for part in places.split(_AT_ONCE):
        distance, nearest = torch.cdist(part, known).topk(count, dim=1, largest=False)
        weights = 1 / (distance + _NEAR)
        weights = weights / weights.sum(dim=1, keepdim=True)
        moved.append((weights[..., None] * moves[nearest]).sum(dim=1))
    return torch.cat(moved)


def connected_parts(region: torch.Tensor) -> torch.Tensor:
    """bool [H, W] -> whole numbers [H, W]: 0 outside, and one number above 0 for each part that hangs together."""
    labels = torch.arange(1, region.numel() + 1, dtype=torch.float32, device=region.device).view(*region.shape)
    labels = labels * region
    while True:
        spread = F.max_pool2d(labels[None, None], 3, stride=1, padding=1)[0, 0] * region
        if torch.equal(spread, labels):
            return labels.long()
        labels = spread


def grown(mask: torch.Tensor, radius: int) -> torch.Tensor:
    """bool [H, W] and everything within `radius` pixels of it, in rows and columns."""
    if radius < 1:
        return mask
    return F.max_pool2d(mask[None, None].float(), 2 * radius + 1, stride=1, padding=radius)[0, 0] > 0


def _moved(
    part: torch.Tensor, handles_rc: torch.Tensor, targets_rc: torch.Tensor, most_pairs: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Where one part goes: places [M, 2] of the picture, and where each comes from."""
    source = part.nonzero().float()
    chosen = torch.linspace(0, len(source) - 1, min(len(source), most_pairs), device=part.device).round().long()
    start = source[chosen]
    end = start + follow(start, handles_rc.float(), (targets_rc - handles_rc).float())
    # a chosen place may be several pixels from the outermost one that it stands for
    reach = torch.tensor([-(-len(source) // len(start)) + 1], device=part.device)
    low, high = (end.amin(dim=0) - reach).floor(), (end.amax(dim=0) + reach).ceil()
    places = torch.cartesian_prod(
        *(
            torch.arange(max(0, int(low[axis])), min(part.shape[axis], int(high[axis]) + 1), device=part.device)
            for axis in (0, 1)
        )
    ).view(-1, 2)
    comes_from = places + follow(places.float(), end, start - end) if len(places) else places.float()
    inside = _labels_at(part.long(), comes_from) > 0
    return places[inside], comes_from[inside]


def _labels_at(labels: torch.Tensor, places_rc: torch.Tensor) -> torch.Tensor:
    """The label of the pixel at each place [P, 2]; 0 outside the picture."""
    nearest = places_rc.round().long()
    limit = torch.tensor(labels.shape, device=labels.device)
    inside = ((nearest >= 0) & (nearest < limit)).all(dim=-1)
    rows, cols = nearest.clamp_min(0).minimum(limit - 1).unbind(-1)
    return torch.where(inside, labels[rows, cols], 0)


def _hole(left: torch.Tensor, reached: torch.Tensor) -> torch.Tensor:
    """What is uncovered, a little grown, and the seam along the border of what was reached."""
    seam = _seam(left)
    border = grown(reached, seam) & grown(~reached, seam)
    return grown(left & ~reached, seam) | border


def _seam(region: torch.Tensor) -> int:
    """Half the seam's width in pixels, at least one."""
    return max(1, round(SEAM_OF_512 * max(region.shape) / 512))
