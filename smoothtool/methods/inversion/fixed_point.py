"""DDIM inversion that solves each step instead of guessing it.

Pan et al., Effective Real Image Editing with Accelerated Iterative Diffusion Inversion (AIDI), ICCV 2023
(arXiv:2309.04907), eq. 8. Sampling steps from z_t with eps(z_t, t); the exact inverse is the fixed point of

    z_t <- ddim_step(z_s, eps(z_t, t, text))        s -> t = s + T/N

started at the plain DDIM estimate, which uses eps(z_s, t). The map contracts for the small steps of a trained model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from smoothtool.diffusion.ddim import ddim_step
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.methods.inversion.ddim import InversionStep
from smoothtool.types import Conditioning


@dataclass(frozen=True)
class FixedPointStep(InversionStep):
    """`residual`: root mean square of the last round's change, the error that the step before it still had."""

    residual: float


@torch.no_grad()
def fixed_point_steps(
    model: DiffusionModel, latents: torch.Tensor, text: Conditioning, num_inference_steps: int, rounds: int = 3
) -> Iterator[FixedPointStep]:
    """1 + `rounds` UNet calls a step at guidance 1; latents [B, C, h, w] of the image, text of batch B or 1."""
    text = text.expand(len(latents))
    for step_index, pair in reversed(list(enumerate(model.schedule.alpha_pairs(num_inference_steps)))):
        timestep, alpha_prod, alpha_prod_previous = pair
        estimate, residual = latents, 0.0
        for _ in range(1 + rounds):
            noise = model.predict_noise(estimate, timestep, text)
            better = ddim_step(latents, noise, alpha_prod_previous, alpha_prod)
            residual = float((better - estimate).square().mean().sqrt())
            estimate = better
        latents = estimate
        yield FixedPointStep(step_index, timestep, latents, residual)
