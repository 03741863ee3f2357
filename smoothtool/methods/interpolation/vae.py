"""VAE interpolation, the baseline without diffusion (as compared in Smooth Diffusion, arXiv:2312.04410)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch


def vae_frames(latents: torch.Tensor, ratios: Sequence[float]) -> torch.Tensor:
    """z_0(r) = (1 - r) z_0^a + r z_0^b for every neighbouring pair; decoding it fades one picture into the other.

    latents  [K, C, h, w] of the pictures, in order -> in-betweens [(K-1) * n, C, h, w]
    """
    return torch.stack([torch.lerp(a, b, ratio) for a, b in pairwise(latents) for ratio in ratios])
