"""Blended latent diffusion: paint part of a picture with a model that was not trained for it.

Avrahami et al., Blended Latent Diffusion, SIGGRAPH 2023 (arXiv:2206.02779), algorithm 1: after every denoising step the
latents outside the hole are put back, as noisy as the step has left the others,

    z <- m ddim_step(z) + (1 - m) (sqrt(abar) z_0 + sqrt(1 - abar) eps)

with one eps for all steps, so that the surroundings keep to one path.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from smoothtool.diffusion.ddim import add_noise, ddim_step
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import DenoisingStep, guided_noise
from smoothtool.types import Conditioning


def blended_steps(
    model: DiffusionModel,
    latents: torch.Tensor,
    hole: torch.Tensor,
    text: Conditioning,
    null: Conditioning,
    noise: torch.Tensor,
    num_inference_steps: int,
    guidance_scale: float,
    start: int = 0,
) -> Iterator[DenoisingStep]:
    """Denoise from sampling step `start`; the last step's latents [B, C, h, w] are the painted picture's.

    latents  [B, C, h, w] z_0 of the picture; what the hole holds counts from a later start on
    hole     [1, 1, h, w] or [B, 1, h, w], 1 where the picture is to be painted
    noise    [B, C, h, w]
    """
    pairs = model.schedule.alpha_pairs(num_inference_steps)
    painted = add_noise(latents, noise, pairs[start][1]) if start < num_inference_steps else latents
    for step_index in range(start, num_inference_steps):
        timestep, alpha_prod, alpha_prod_next = pairs[step_index]
        noise_pred = guided_noise(model, painted, timestep, text, null, guidance_scale)
        painted = ddim_step(painted, noise_pred, alpha_prod, alpha_prod_next)
        kept = latents if step_index == num_inference_steps - 1 else add_noise(latents, noise, alpha_prod_next)
        painted = hole * painted + (1 - hole) * kept
        yield DenoisingStep(step_index, timestep, painted, noise_pred)
