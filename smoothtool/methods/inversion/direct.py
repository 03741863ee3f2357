"""Direct inversion: the source branch of an edit is put back on the pivots after every step.

Ju et al., PnP Inversion, ICLR 2024 (arXiv:2310.01506), algorithm 1, adds to the source row after each step the residual

    r_i = z*_{N-i-1} - ddim_step(z*_{N-i}, eps_guided(z*_{N-i}, source))

Pivot plus residual minus step is the pivot itself, so the row is simply set to it: the paper's extra sampling pass,
which only measures the residuals, is not needed, and the source comes out exactly. What an edit takes from the source
(its attention maps, its latents at a prompt switch) is then the same to the last bit.
"""

from __future__ import annotations

import torch

from smoothtool.types import LatentTrajectory


def pivot_path(trajectory: LatentTrajectory) -> torch.Tensor:
    """The source row [N+1, B, C, h, w] in sampling order: index i enters step i, the last one is the image."""
    return trajectory.latents.flip(0)
