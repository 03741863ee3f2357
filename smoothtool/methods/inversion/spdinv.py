"""SPDInv: the noise of every inversion step as the solution of the step's own equation, away from the source prompt.

Li et al., Source Prompt Disentangled Inversion for Boosting Image Editability with Diffusion Models, ECCV 2024
(arXiv:2403.11105):

    z_t = argmin_z  mean (z - f(z))^2,      f(z) = ddim_step(z_s, eps(z, t, source))

The authors' program searches with AdamW from the plain DDIM estimate: lr 1e-3, at most 25 rounds, until the mean is
under 5e-6. The minimum is AIDI's fixed point, so any solver of z = f(z) finds it, and Anderson acceleration needs no
gradient. Edits take the source prompt as the null prompt, as in negative-prompt inversion.

Two things differ from that program on purpose. Its times for N = 50 are 980, ..., 0, and its inversion's first step
stays at the same noise level; ours are the model's own. Its prompt-to-prompt also shrinks the difference between the
prompts by ProxNPI's rule, and in the steps with t < 400 puts the inversion's latents back, except where the shrunk
difference is over the threshold and one pixel around. Ours does neither, so the paper's figures are not those of our
edits.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from smoothtool.diffusion.model import DiffusionModel
from smoothtool.methods.inversion.fixed_point import FixedPointStep, implicit_steps
from smoothtool.methods.inversion.fixed_point_solvers import FixedPointSolver
from smoothtool.types import Conditioning


def spdinv_steps(
    model: DiffusionModel,
    latents: torch.Tensor,
    text: Conditioning,
    num_inference_steps: int,
    solver: FixedPointSolver,
) -> Iterator[FixedPointStep]:
    """One UNet call a step and one per round of the solver, at guidance 1.

    latents  [B, C, h, w] of the image, text of batch B or 1
    """
    return implicit_steps(model, latents, text, num_inference_steps, solver)
