"""DCI: SPDInv's equation with every noise prediction pulled towards the picture.

Li et al., DCI: Dual-Conditional Inversion for Boosting Diffusion-Based Image Editing, NeurIPS 2025 (arXiv:2506.02560):

    z_t = argmin_z  mean (z - f(z))^2,      f(z) = ddim_step(z_s, e - lambda (e - z_0) / ||e - z_0||),
                                            e = eps(z, t, source)

The norm is over a whole picture's latents, so the pull moves each entry by lambda / sqrt(C h w) on average: 0.008
lambda at 512 px, more for smaller pictures. The paper takes lambda 2 and five rounds. Its program takes lambda 1 and up
to 10, its function alone 25, as ours; the start is not pulled, and AdamW takes the pull as constant. Sampling does not
pull, so that even the exact fixed point does not lead back exactly. The program edits as SPDInv's does: `spdinv` says
what ours leaves out.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from smoothtool.diffusion.model import DiffusionModel
from smoothtool.methods.inversion.fixed_point import FixedPointStep, implicit_steps
from smoothtool.methods.inversion.fixed_point_solvers import FixedPointSolver
from smoothtool.types import Conditioning

PULL = 1.0
"""lambda: the program's."""


def dci_steps(
    model: DiffusionModel,
    latents: torch.Tensor,
    text: Conditioning,
    num_inference_steps: int,
    solver: FixedPointSolver,
    pull: float = PULL,
) -> Iterator[FixedPointStep]:
    """One UNet call a step and one per round of the solver, at guidance 1.

    latents  [B, C, h, w] of the image, text of batch B or 1
    pull     lambda >= 0; 0 is SPDInv
    """

    def corrected(noise: torch.Tensor) -> torch.Tensor:
        """[B, C, h, w], a step of length `pull` towards the image's latents."""
        away = noise.detach() - latents
        return noise - pull * away / away.norm(p=2, dim=(1, 2, 3), keepdim=True)

    return implicit_steps(model, latents, text, num_inference_steps, solver, corrected)
