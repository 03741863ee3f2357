"""Point tracking: where each handle is now, by nearest neighbour in feature space (DragDiffusion, eq. 5).

h_i = argmin over the window around h_i of  sum_c | F(position) - F_0(h_i at the start) |
"""

from __future__ import annotations

import torch

from smoothtool.methods.drag.feature_grid import FeatureGrid, offsets


def track_points(
    grid: FeatureGrid, feature: torch.Tensor, handles_rc: torch.Tensor, looked_for: torch.Tensor, radius: int
) -> torch.Tensor:
    """The best match in the (2 radius + 1)^2 window around each handle, [P, 2].

    feature     [1, C, h, w] as it is now
    looked_for  [P, C] the first feature at the first handles
    """
    distance = (grid.patches(feature, handles_rc, radius) - looked_for[:, :, None, None]).abs().sum(dim=1)
    distance = distance.masked_fill(~grid.inside(handles_rc, radius)[:, 0], torch.inf)
    best, side = distance.flatten(1).argmin(dim=1), 2 * radius + 1
    around = offsets(handles_rc, radius)
    points = torch.arange(len(handles_rc), device=handles_rc.device)
    return torch.stack([around[points, best // side, 0], around[points, best % side, 1]], dim=1)
