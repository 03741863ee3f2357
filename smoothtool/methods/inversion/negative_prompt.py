"""Negative-prompt inversion: the source prompt itself stands in for the null embedding, nothing is optimised.

Miyake et al., Negative-prompt Inversion, WACV 2025 (arXiv:2305.16807):  null_i = text embedding of the source prompt.
Under the source prompt the guided noise is then the plain conditional one at any guidance scale, so the reconstruction
follows DDIM inversion at w = 1; under a target prompt guidance pushes from source to target.

Proximal guidance (Han et al., ProxEdit, WACV 2024, arXiv:2306.05414, eqs. 5 to 7) keeps what the prompts agree on:

    eps = eps_null + w prox(eps_text - eps_null),   tau = 0.7 quantile of |eps_text - eps_null| per picture
    l0: entries at or under tau become 0            l1: the rest also shrink by tau
"""

from __future__ import annotations

from typing import Literal

import torch

from smoothtool.diffusion.sampling import Guidance, guide
from smoothtool.types import Conditioning


def negative_prompt_embeds(text: Conditioning, num_inference_steps: int) -> torch.Tensor:
    """The source embeddings [B, L, D] as null embeddings of every step, [N, B, L, D]."""
    return text.prompt_embeds.expand(num_inference_steps, *text.prompt_embeds.shape)


def proximal_guidance(kind: Literal["l0", "l1"] = "l0", quantile: float = 0.7) -> Guidance:
    """The guidance rule of ProxNPI."""

    def rule(noise_null: torch.Tensor, noise_text: torch.Tensor, guidance_scale: float) -> torch.Tensor:
        """eps [B, C, h, w] from both halves' predictions, with the threshold per picture."""
        delta = noise_text - noise_null
        size = delta.abs()
        threshold = torch.quantile(size.flatten(1).float(), quantile, dim=1).view(-1, 1, 1, 1).to(delta.dtype)
        kept = delta - delta.clamp(-threshold, threshold) if kind == "l1" else delta * (size > threshold)
        return guide(noise_null, noise_null + kept, guidance_scale)

    return rule
