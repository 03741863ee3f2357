"""Guidance (Ho & Salimans 2022, arXiv:2207.12598) and the one denoising loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from smoothtool.diffusion.ddim import ddim_step
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.types import Conditioning

ConditioningAt = Callable[[int], Conditioning]
"""The conditioning of sampling step i: constant, switched, or optimised per step."""


@dataclass(frozen=True)
class DenoisingStep:
    """One step done: `latents` [B, C, h, w] at its end, and the guided `noise_pred` that led there."""

    step_index: int
    timestep: int
    latents: torch.Tensor
    noise_pred: torch.Tensor


Guidance = Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
"""(noise_null, noise_text, guidance_scale) -> the noise to follow: `guide`, or a method's own rule."""


def guide(noise_null: torch.Tensor, noise_text: torch.Tensor, guidance_scale: float) -> torch.Tensor:
    """eps = eps_null + w (eps_text - eps_null)."""
    return noise_null + guidance_scale * (noise_text - noise_null)


def seeded_noise(shape: Sequence[int], seed: int | None) -> torch.Tensor:
    """Noise of a seed, 0 where there is none; on the CPU, so that every device starts from the same."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed or 0), device="cpu")


def noise_like(latents: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
    """Noise for latents [B, C, h, w], each picture's from a CPU generator of its own, so the same in any batch."""
    return torch.cat([torch.randn(latents[:1].shape, generator=one, device="cpu") for one in generators]).to(latents)


@torch.no_grad()
def guided_noise(
    model: DiffusionModel,
    latents: torch.Tensor,
    timestep: int,
    text: Conditioning,
    null: Conditioning,
    guidance_scale: float,
    rule: Guidance = guide,
) -> torch.Tensor:
    """Null and text as one batch [2B]; at w = 1 the null half is not needed and not computed."""
    batch = len(latents)
    if guidance_scale == 1 and rule is guide:
        return model.predict_noise(latents, timestep, text.expand(batch))
    both = Conditioning.cat([null.expand(batch), text.expand(batch)])
    noise_null, noise_text = model.predict_noise(torch.cat([latents, latents]), timestep, both).chunk(2)
    return rule(noise_null, noise_text, guidance_scale)


def denoise(
    model: DiffusionModel,
    latents: torch.Tensor,
    text_at: ConditioningAt,
    null_at: ConditioningAt,
    num_inference_steps: int,
    guidance_scale: float,
    start: int = 0,
    rule: Guidance = guide,
) -> Iterator[DenoisingStep]:
    """DDIM sampling from step index `start` to the image.

    latents  [B, C, h, w] float32, at the noise level of step `start`
    text_at, null_at  conditioning of batch B, or of batch 1 for all
    """
    pairs = model.schedule.alpha_pairs(num_inference_steps)
    for step_index in range(start, num_inference_steps):
        timestep, alpha_prod, alpha_prod_next = pairs[step_index]
        noise = guided_noise(model, latents, timestep, text_at(step_index), null_at(step_index), guidance_scale, rule)
        latents = ddim_step(latents, noise, alpha_prod, alpha_prod_next)
        yield DenoisingStep(step_index, timestep, latents, noise)


def constant(conditioning: Conditioning) -> ConditioningAt:
    """The same conditioning at every step."""
    return lambda step_index: conditioning


def per_step(
    conditioning: Conditioning, embeds: torch.Tensor | None, pooled: torch.Tensor | None = None
) -> ConditioningAt:
    """Optimised embeddings [N, G, L, D], one per step; None: `conditioning` itself throughout.

    pooled  [G, P] in the place of the conditioning's own, throughout
    """
    if embeds is None:
        return constant(conditioning)
    if pooled is not None:
        conditioning = replace(conditioning.expand(len(pooled)), pooled_prompt_embeds=pooled)
    return lambda step_index: conditioning.expand(len(embeds[step_index])).with_embeds(embeds[step_index])
