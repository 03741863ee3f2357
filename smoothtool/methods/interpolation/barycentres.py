"""LOL, linear combinations of latents (Bodin et al., ICLR 2025, arXiv:2408.08558): grids of three or four pictures.

A weighted sum of independent draws x_k from a Gaussian of mean mu is made a draw of the same Gaussian again:

    z = (1 - alpha / sqrt(beta)) mu + sum_k w_k x_k / sqrt(beta),    alpha = sum_k w_k,  beta = sum_k w_k^2

Diffusion noise has mu = 0. A corner of the grid, with one weight of 1, is that picture's own noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import DenoisingStep, constant, denoise, per_step
from smoothtool.types import Conditioning

Weights = tuple[float, ...]
"""How much of each picture, adding up to 1."""


def grid_weights(pictures: int, between: int) -> list[list[Weights]]:
    """Rows of a grid with `between` frames on each side between two corners.

    Three pictures stand at the top, the lower left and the lower right of a triangle whose row i holds i + 1 frames.
    Four stand at the corners of a square in reading order: the weights are bilinear, (1-y)(1-x), (1-y)x, y(1-x), yx.
    Raises: ValueError for another number of pictures.
    """
    last = between + 1
    if pictures == 3:
        return [[(1 - row / last, (row - col) / last, col / last) for col in range(row + 1)] for row in range(last + 1)]
    if pictures == 4:
        places = [index / last for index in range(last + 1)]
        return [[((1 - y) * (1 - x), (1 - y) * x, y * (1 - x), y * x) for x in places] for y in places]
    raise ValueError(f"a grid has three or four corners, not {pictures}")


def barycentres(noise: torch.Tensor, weights: Sequence[Weights], mean: float = 0.0) -> torch.Tensor:
    """noise [K, C, h, w], M weights of K numbers -> [M, C, h, w], each distributed like one of the K; in float64.

    mean  of the Gaussian that the K were drawn from
    """
    mix = torch.tensor(weights, dtype=torch.float64, device="cpu")
    length = mix.square().sum(dim=1, keepdim=True).sqrt()
    away = 1 - mix.sum(dim=1, keepdim=True) / length
    mixed = mix / length @ noise.cpu().double().flatten(start_dim=1) + away * mean  # MPS has no float64
    return mixed.reshape(-1, *noise.shape[1:]).to(noise)


def weighted_text(text: Conditioning, weights: Sequence[Weights]) -> Conditioning:
    """The K conditionings averaged part by part, one row per set of weights."""

    def averaged(part: torch.Tensor) -> torch.Tensor:
        """[K, ...] -> [M, ...]."""
        return torch.einsum("mk,k...->m...", torch.tensor(weights, dtype=part.dtype, device=part.device), part)

    return text.map(averaged)


def barycentre_steps(
    model: DiffusionModel,
    noise: torch.Tensor,
    text: Conditioning,
    null: Conditioning,
    null_embeds: torch.Tensor | None,
    weights: Sequence[Weights],
    num_inference_steps: int,
    guidance_scale: float,
) -> Iterator[DenoisingStep]:
    """Sample the pictures at these weights as one batch [M, C, h, w].

    noise        [K, C, h, w] noise ends of the pictures
    text         [K, L, D] one per picture; null [1, L, D]
    null_embeds  [N, 1, L, D] null embeddings that the K share, or None for plain `null`
    """
    starts, mixed_text = barycentres(noise, weights), weighted_text(text, weights)
    yield from denoise(
        model, starts, constant(mixed_text), per_step(null, null_embeds), num_inference_steps, guidance_scale
    )
