"""CycleDiffusion: find the noise that explains the picture under the source prompt, and reuse it under the target.

Wu & De la Torre, A Latent Space of Stochastic Diffusion Models for Zero-Shot Image Editing and Guidance, ICCV 2023
(arXiv:2210.05559), algorithm 1 with the eta-DDIM sampler. For every step t -> s:

    z^s_s ~ q(z_s | z^s_t, z_0)                            a posterior sample of the source
    n     = z^s_s - mean(z^s_t, eps(z^s_t, source))        sigma times the noise that explains it
    z^t_s = mean(z^t_t, eps_guided(z^t_t, target)) + n     the target takes the same noise

    mean(z, eps) = sqrt(abar_s) x0_hat + sqrt(1 - abar_s - sigma^2) eps
    sigma = eta sqrt((1 - abar_s) / (1 - abar_t)) sqrt(1 - abar_t / abar_s)

The last posterior sample is z_0 itself, so that equal prompts at w = 1 give the picture back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from smoothtool.diffusion.ddim import add_noise, pred_noise, pred_original_sample
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import DenoisingStep, guide, noise_like
from smoothtool.methods.editing.sdedit import start_index
from smoothtool.types import Conditioning


@torch.no_grad()
def cycle_steps(
    model: DiffusionModel,
    latents: torch.Tensor,
    source: Conditioning,
    target: Conditioning,
    null: Conditioning,
    num_inference_steps: int,
    guidance_scale: float,
    generators: Sequence[torch.Generator],
    strength: float = 0.8,
    eta: float = 0.1,
) -> Iterator[DenoisingStep]:
    """Source at w = 1 and target at `guidance_scale`, three rows a picture in one UNet call a step.

    latents     [B, C, h, w] of the pictures; source and target are B rows, null is one or B
    generators  one a picture, on the CPU: it draws the noise that the source is sampled with
    """
    pairs = model.schedule.alpha_pairs(num_inference_steps)
    start = start_index(strength, num_inference_steps)
    rows = Conditioning.cat([source, null.expand(len(latents)), target])
    if start == num_inference_steps:
        return
    source_latents = target_latents = add_noise(latents, noise_like(latents, generators), pairs[start][1])
    for step_index in range(start, num_inference_steps):
        t, alpha_from, alpha_to = pairs[step_index]
        sigma = eta * ((1 - alpha_to) / (1 - alpha_from) * (1 - alpha_from / alpha_to)) ** 0.5
        batch = torch.cat([source_latents, target_latents, target_latents])
        noise_source, noise_null, noise_target = model.predict_noise(batch, t, rows).chunk(3)
        noise_pred = guide(noise_null, noise_target, guidance_scale)
        towards = (latents, noise_of(source_latents, latents, alpha_from))  # what the picture itself says
        posterior = _mean(*towards, alpha_to, sigma) + sigma * noise_like(latents, generators)
        if step_index == num_inference_steps - 1:
            posterior = latents
        explained = posterior - _step_mean(source_latents, noise_source, alpha_from, alpha_to, sigma)
        target_latents = _step_mean(target_latents, noise_pred, alpha_from, alpha_to, sigma) + explained
        source_latents = posterior
        yield DenoisingStep(step_index, t, target_latents, noise_pred)


def noise_of(latents: torch.Tensor, original: torch.Tensor, alpha_prod: float) -> torch.Tensor:
    """eps = (z_t - sqrt(abar) z_0) / sqrt(1 - abar)."""
    return (latents - alpha_prod**0.5 * original) / (1 - alpha_prod) ** 0.5


def _mean(original: torch.Tensor, noise: torch.Tensor, alpha_to: float, sigma: float) -> torch.Tensor:
    """sqrt(abar') z_0 + sqrt(1 - abar' - sigma^2) eps; z_0, eps [B, C, h, w]."""
    return alpha_to**0.5 * original + max(1 - alpha_to - sigma**2, 0.0) ** 0.5 * noise


def _step_mean(
    latents: torch.Tensor, noise: torch.Tensor, alpha_from: float, alpha_to: float, sigma: float
) -> torch.Tensor:
    """Where a sampling step goes from latents [B, C, h, w] before its noise is added."""
    original, noise = pred_original_sample(latents, noise, alpha_from), pred_noise(latents, noise, alpha_from)
    return _mean(original, noise, alpha_to, sigma)
