"""Negative-prompt inversion: the source prompt itself stands in for the null embedding, nothing is optimised.

Miyake et al., Negative-prompt Inversion, WACV 2025 (arXiv:2305.16807):  null_i = text embedding of the source prompt.
Under the source prompt the guided noise is then the plain conditional one at any guidance scale, so the reconstruction
follows DDIM inversion at w = 1; under a target prompt guidance pushes from source to target.

Proximal guidance (Han et al., ProxEdit, WACV 2024, arXiv:2306.05414, eqs. 5 to 7) keeps what the prompts agree on:

    eps = eps_null + w prox(eps_text - eps_null),   tau = a quantile of |eps_text - eps_null| per picture
    hard, the paper's l0: entries at or under tau become 0
    soft, the paper's l1: the rest also shrink by tau

The authors' program shrinks in both of its modes. What it calls "l0", its default, is the soft rule with the quantile
taken over the source's and the target's row together. The source's differences are all zero, because its null text is
its own prompt, so the 0.7 quantile of both is the 0.4 quantile of the target's: 60 % of its entries survive instead of
30 %. (Its "l1" shrinks twice and turns the sign of small negative entries; that is left out.)

Left out on purpose: the program can also pull latents to the pivots where the prompts agree, which is off by default.
"""

from __future__ import annotations

import torch

from smoothtool.diffusion.sampling import Guidance, guide
from smoothtool.types import Conditioning, Proximal


def negative_prompt_embeds(text: Conditioning, num_inference_steps: int) -> torch.Tensor:
    """The source embeddings [B, L, D] as null embeddings of every step, [N, B, L, D]."""
    return text.prompt_embeds.expand(num_inference_steps, *text.prompt_embeds.shape)


def proximal_guidance(kind: Proximal = "program", quantile: float = 0.7) -> Guidance:
    """The guidance rule of ProxNPI: the program's (soft, with the source's zeros in the quantile), `soft` or `hard`."""

    def rule(noise_null: torch.Tensor, noise_text: torch.Tensor, guidance_scale: float) -> torch.Tensor:
        """eps [B, C, h, w] from both halves' predictions, with the threshold per picture."""
        delta = noise_text - noise_null
        size = delta.abs().flatten(1).float()
        counted = torch.cat([torch.zeros_like(size), size], dim=1) if kind == "program" else size
        threshold = torch.quantile(counted, quantile, dim=1).view(-1, 1, 1, 1).to(delta.dtype)
        kept = delta * (delta.abs() > threshold) if kind == "hard" else delta - delta.clamp(-threshold, threshold)
        return guide(noise_null, noise_null + kept, guidance_scale)

    return rule
