"""The enlarged feature map that drag methods look at, without making it.

DragDiffusion enlarges the UNet's feature to half the picture's height and width (bilinear) and reads a few small
patches from it, again bilinearly. Both are linear and separable, so a patch is two small matrix products:

    patch = R[rows] F R[cols]^T        R [H, h] the weights of bilinear enlargement
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class FeatureGrid:
    """Bilinear weights from a feature map h x w to a grid H x W: `rows` [H, h], `cols` [W, w]."""

    rows: torch.Tensor
    cols: torch.Tensor

    @classmethod
    def over(cls, feature: torch.Tensor, size: tuple[int, int]) -> FeatureGrid:
        """feature [1, C, h, w], size (H, W) of the grid."""
        rows, cols = (
            F.interpolate(torch.eye(length, device=feature.device)[None], size=enlarged, mode="linear")[0].T
            for length, enlarged in zip(feature.shape[-2:], size, strict=True)
        )
        return cls(rows, cols)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the grid."""
        return len(self.rows), len(self.cols)

    def patches(self, feature: torch.Tensor, centres_rc: torch.Tensor, radius: int) -> torch.Tensor:
        """Values around P centres, [P, C, k, k] with k = 2 radius + 1; beyond the border, the border's.

        feature     [1, C, h, w]
        centres_rc  [P, 2] row and column on the grid, fractions allowed
        """
        around = offsets(centres_rc, radius)
        rows, cols = _weights(self.rows, around[..., 0]), _weights(self.cols, around[..., 1])
        return torch.einsum("pkcw,plw->pckl", torch.einsum("pkh,chw->pkcw", rows, feature[0]), cols)

    def inside(self, centres_rc: torch.Tensor, radius: int) -> torch.Tensor:
        """Which entries of the patches lie on the grid, bool [P, 1, k, k]."""
        around = offsets(centres_rc, radius)
        rows, cols = ((at >= 0) & (at <= side - 1) for at, side in zip(around.unbind(-1), self.size, strict=True))
        return (rows[:, :, None] & cols[:, None, :])[:, None]


def offsets(centres_rc: torch.Tensor, radius: int) -> torch.Tensor:
    """Rows and columns of square patches, [P, 2 radius + 1, 2]."""
    steps = torch.arange(-radius, radius + 1, device=centres_rc.device)
    return centres_rc[:, None, :] + steps[None, :, None]


def _weights(matrix: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Rows of `matrix` [H, h] at fractional positions [P, k] -> [P, k, h]."""
    low = positions.floor()
    share = (positions - low)[..., None]
    below, above = (matrix[index.long().clamp(0, len(matrix) - 1)] for index in (low, low + 1))
    return (1 - share) * below + share * above
