"""DDIM inversion: run the deterministic sampler backwards.

Song, Meng & Ermon, Denoising Diffusion Implicit Models, ICLR 2021 (arXiv:2010.02502), in the form of null-text
inversion's program: the UNet is evaluated at the target time on the latents of the step before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from smoothtool.diffusion.ddim import ddim_step
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.types import Conditioning, LatentTrajectory


@dataclass(frozen=True)
class InversionStep:
    """Latents [B, C, h, w] now at `timestep`; `step_index` is the sampling step that will start from them."""

    step_index: int
    timestep: int
    latents: torch.Tensor


@torch.no_grad()
def ddim_inversion_steps(
    model: DiffusionModel, latents: torch.Tensor, text: Conditioning, num_inference_steps: int, strength: float = 1.0
) -> Iterator[InversionStep]:
    """z_t = ddim_step(z_s, eps(z_s, t, text)) for s -> t = s + T/N, at guidance 1.

    latents   [B, C, h, w] of the image, text of batch B or 1
    strength  0..1: stop after round(strength * N) steps
    """
    pairs = model.schedule.alpha_pairs(num_inference_steps)
    stop = num_inference_steps - round(strength * num_inference_steps)
    for step_index in reversed(range(stop, num_inference_steps)):
        timestep, alpha_prod, alpha_prod_previous = pairs[step_index]
        noise = model.predict_noise(latents, timestep, text.expand(len(latents)))
        latents = ddim_step(latents, noise, alpha_prod_previous, alpha_prod)
        yield InversionStep(step_index, timestep, latents)


def trajectory_of(latents: torch.Tensor, steps: list[InversionStep]) -> LatentTrajectory:
    """The pivots z*_0..z*_K: the image's latents and one per inversion step."""
    timesteps = tuple(step.timestep for step in reversed(steps))
    return LatentTrajectory(torch.stack([latents, *(step.latents for step in steps)]), timesteps)
