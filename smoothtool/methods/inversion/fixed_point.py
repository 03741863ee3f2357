"""DDIM inversion that solves each step instead of guessing it.

Pan et al., Effective Real Image Editing with Accelerated Iterative Diffusion Inversion (AIDI), ICCV 2023
(arXiv:2309.04907), eq. 8. Sampling steps from z_t with eps(z_t, t); the exact inverse is the fixed point of

    f(z_t) = ddim_step(z_s, eps(z_t, t, text))        s -> t = s + T/N

started at the plain DDIM estimate f(z_s). The map contracts for the small steps of a trained model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from smoothtool.diffusion.ddim import ddim_step
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.methods.inversion.ddim import InversionStep
from smoothtool.methods.inversion.fixed_point_solvers import FixedPointSolver, Map, plain_solver
from smoothtool.types import Conditioning

ROUNDS = 3


@dataclass(frozen=True)
class FixedPointStep(InversionStep):
    """`residuals` [1 + rounds, B]: root mean square of f(z) - z, of the z that each UNet call was made at."""

    residuals: torch.Tensor

    @property
    def last_residuals(self) -> tuple[float, ...]:
        """One per picture."""
        return tuple(self.residuals[-1].tolist())


def fixed_point_steps(
    model: DiffusionModel, latents: torch.Tensor, text: Conditioning, num_inference_steps: int, rounds: int = ROUNDS
) -> Iterator[FixedPointStep]:
    """1 + `rounds` UNet calls a step at guidance 1; latents [B, C, h, w] of the image, text of batch B or 1."""
    return implicit_steps(model, latents, text, num_inference_steps, plain_solver(rounds, threshold=0.0))


@torch.no_grad()
def implicit_steps(
    model: DiffusionModel,
    latents: torch.Tensor,
    text: Conditioning,
    num_inference_steps: int,
    solver: FixedPointSolver,
    corrected: Map = lambda noise: noise,
) -> Iterator[FixedPointStep]:
    """The fixed point of f(z_t) = ddim_step(z_s, corrected(eps(z_t, t, text))) at every step, at guidance 1.

    latents    [B, C, h, w] of the image, text of batch B or 1
    corrected  what becomes of a noise prediction [B, C, h, w] before it is followed; at abar = 0, where the model
               predicts no noise, nothing
    """
    text = text.expand(len(latents))
    pairs = model.schedule.alpha_pairs(num_inference_steps)
    for step_index, (timestep, alpha_prod, alpha_prod_previous) in reversed(list(enumerate(pairs))):

        def follow(
            noise: torch.Tensor, z: torch.Tensor = latents, low: float = alpha_prod_previous, high: float = alpha_prod
        ) -> torch.Tensor:
            """z_t [B, C, h, w] by a noise prediction of the same shape."""
            return ddim_step(z, corrected(noise) if high else noise, low, high)

        def image_of(point: torch.Tensor, follow: Map = follow, timestep: int = timestep) -> torch.Tensor:
            """f, [B, C, h, w]."""
            return follow(model.predict_noise(point, timestep, text))

        noise = model.predict_noise(latents, timestep, text)
        start = ddim_step(latents, noise, alpha_prod_previous, alpha_prod)
        latents, residuals = solver(image_of, start, (latents, follow(noise)))
        yield FixedPointStep(step_index, timestep, latents, residuals)
