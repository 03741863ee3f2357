"""The DDIM schedule and its one direction-free step (Song et al. 2021, arXiv:2010.02502, eq. 12 with eta = 0)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler


def pred_original_sample(latents: torch.Tensor, noise_pred: torch.Tensor, alpha_prod: float) -> torch.Tensor:
    """x0_hat = (z - sqrt(1 - abar) eps) / sqrt(abar)."""
    return (latents - (1 - alpha_prod) ** 0.5 * noise_pred) / alpha_prod**0.5


def ddim_step(
    latents: torch.Tensor, noise_pred: torch.Tensor, alpha_prod_from: float, alpha_prod_to: float
) -> torch.Tensor:
    """z_to = sqrt(abar_to) x0_hat + sqrt(1 - abar_to) eps, towards the image or towards noise alike."""
    sample = pred_original_sample(latents, noise_pred, alpha_prod_from)
    return alpha_prod_to**0.5 * sample + (1 - alpha_prod_to) ** 0.5 * noise_pred


def noise_coefficient(alpha_prod_from: float, alpha_prod_to: float) -> float:
    """d z_to / d eps of `ddim_step`: the step is linear in the noise prediction."""
    return (1 - alpha_prod_to) ** 0.5 - (alpha_prod_to * (1 - alpha_prod_from) / alpha_prod_from) ** 0.5


def noise_from_velocity(
    latents: torch.Tensor, velocity: torch.Tensor, alpha_prod: float | torch.Tensor
) -> torch.Tensor:
    """eps = sqrt(abar) v + sqrt(1 - abar) z (Salimans & Ho 2022, arXiv:2202.00512, appendix D)."""
    return alpha_prod**0.5 * velocity + (1 - alpha_prod) ** 0.5 * latents


def add_noise(latents: torch.Tensor, noise: torch.Tensor, alpha_prod: float) -> torch.Tensor:
    """z_t = sqrt(abar) z_0 + sqrt(1 - abar) eps."""
    return alpha_prod**0.5 * latents + (1 - alpha_prod) ** 0.5 * noise


@dataclass(frozen=True)
class Schedule:
    """A model's own noise schedule, read from its scheduler config.

    `alphas_cumprod` are python floats computed in float64; `final_alpha_cumprod` stands for every time below 0.
    """

    alphas_cumprod: tuple[float, ...]
    final_alpha_cumprod: float
    prediction_type: str
    config: dict[str, Any]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Schedule:
        """Any diffusers scheduler config (PNDM, Euler, …): they share the betas."""
        scheduler = DDIMScheduler.from_config(config)
        betas = _betas_float64(scheduler)
        products = tuple(torch.cumprod(1 - betas, dim=0).tolist())
        final = 1.0 if scheduler.config.set_alpha_to_one else products[0]
        return cls(products, final, str(scheduler.config.prediction_type), dict(config))

    def timesteps(self, num_inference_steps: int) -> tuple[int, ...]:
        """The sampling times in sampling order, for SD and N = 50: 981, 961, …, 1."""
        scheduler = DDIMScheduler.from_config(self.config)
        scheduler.set_timesteps(num_inference_steps)
        return tuple(int(t) for t in scheduler.timesteps)

    def alpha_prod(self, timestep: int) -> float:
        return self.alphas_cumprod[timestep] if timestep >= 0 else self.final_alpha_cumprod

    def alpha_prods(self, timesteps: torch.Tensor) -> torch.Tensor:
        """abar at times [B], all 0 or more, as float32 [B, 1, 1, 1]: for rows that are at different times."""
        return torch.tensor(self.alphas_cumprod, device=timesteps.device)[timesteps].view(-1, 1, 1, 1)

    def alpha_pairs(self, num_inference_steps: int) -> list[tuple[int, float, float]]:
        """Per sampling step (timestep t, abar at t, abar at t - T/N). Inversion walks the list backwards."""
        stride = len(self.alphas_cumprod) // num_inference_steps
        return [(t, self.alpha_prod(t), self.alpha_prod(t - stride)) for t in self.timesteps(num_inference_steps)]


def _betas_float64(scheduler: DDIMScheduler) -> torch.Tensor:
    config = scheduler.config
    count, start, end = config.num_train_timesteps, config.beta_start, config.beta_end
    zero_snr = getattr(config, "rescale_betas_zero_snr", False)
    if config.trained_betas is None and not zero_snr and config.beta_schedule == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, count, dtype=torch.float64) ** 2
    if config.trained_betas is None and not zero_snr and config.beta_schedule == "linear":
        return torch.linspace(start, end, count, dtype=torch.float64)
    return scheduler.betas.double()
