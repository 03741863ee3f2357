"""What lies under a point: the part of a picture whose colours its border lacks, as the region that a drag moves.

In the place of a segmentation model, which Inpaint4Drag (Lu & Han, ICCV 2025, arXiv:2509.04582) uses and which would be
a download: with d(p) the distance in colour from pixel p to the nearest of the border's pixels, at most `FAR`,

    region = what hangs together with the handles in { p : d(p) > theta },    holes filled

where theta parts the distances into two classes that differ most (Otsu, IEEE Trans. SMC 1979). It finds things on plain
or even backgrounds, whole. Between things of similar colours, and things that touch, it does not tell apart.
"""

from __future__ import annotations

import torch

from smoothtool.methods.drag.warp import connected_parts, grown

FAR = 0.2
"""Distances of colours, of [-1, 1] values, beyond which all are alike: 0.2 is 25 grey levels."""
BINS = 64
MOST_BORDER_PIXELS = 256
LARGEST_SHARE = 0.6


def thing_at(pixel_values: torch.Tensor, handles_rc: torch.Tensor) -> torch.Tensor | None:
    """What lies under the handles, bool [H, W]; None where a handle lies on the background, or nothing stands out.

    pixel_values  [1, 3, H, W] in [-1, 1]
    handles_rc    [P, 2] rows and columns in pixels
    """
    colours = pixel_values[0].permute(1, 2, 0).float()
    height, width = colours.shape[:2]
    border = torch.cat([colours[0], colours[-1], colours[:, 0], colours[:, -1]])
    border = border[:: -(-len(border) // MOST_BORDER_PIXELS)]
    rows = [torch.cdist(row, border).amin(dim=1) for row in colours]  # by rows: H W x 256 would be a gigabyte
    distance = torch.stack(rows).clamp(max=FAR)
    stands_out = distance > otsu_threshold(distance)
    # over gaps of two pixels, such as outlines in the background's colour
    labels = connected_parts(grown(stands_out, 1)) * stands_out
    limit = torch.tensor([height - 1, width - 1], device=labels.device)
    row, col = handles_rc.round().long().clamp_min(0).minimum(limit).unbind(-1)
    at = labels[row, col]
    if not bool(at.all()):
        return None
    outside = connected_parts(~torch.isin(labels, at))
    around = torch.cat([outside[0], outside[-1], outside[:, 0], outside[:, -1]]).unique()
    region = ~torch.isin(outside, around[around > 0])
    return region if float(region.float().mean()) <= LARGEST_SHARE else None


def otsu_threshold(values: torch.Tensor) -> float:
    """The number that parts the values, all at least 0, into two classes whose means differ most.

    Equal values are all on one side: none is above it.
    """
    largest = float(values.max())
    counts = torch.histc(values, BINS, 0, largest or 1.0)
    middles = (torch.arange(BINS, device=values.device) + 0.5) / BINS * largest
    below, sums = counts.cumsum(0), (counts * middles).cumsum(0)
    above = below[-1] - below
    gap = sums / below.clamp_min(1) - (sums[-1] - sums) / above.clamp_min(1)
    between = below * above * gap.square()
    if not bool(between.any()):
        return largest
    best = (between >= (1 - 1e-6) * between.max()).nonzero().float().mean()  # the middle of a flat top
    return float((best + 1) / BINS * largest)
