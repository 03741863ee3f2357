"""The walk of Smooth Diffusion (Guo et al., CVPR 2024, arXiv:2312.04410, section 4.2).

Between two pictures that share one inversion: slerp of the noise ends, lerp of the text embeddings, the shared null
embeddings for every frame. Between two Gaussian noises: the same without null embeddings ("Stable Diffusion Walk").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch

from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import DenoisingStep, constant, denoise, per_step
from smoothtool.methods.interpolation.rescheduling import adain
from smoothtool.methods.interpolation.slerp import slerp
from smoothtool.types import Conditioning


def walk_starts(noise: torch.Tensor, ratios: Sequence[float], *, with_adain: bool = False) -> torch.Tensor:
    """The in-between starting latents [(K-1) * n, C, h, w] of a chain of K noise ends [K, C, h, w].

    with_adain  every start gets its ends' interpolated mean and deviation, as DiffMorpher does: see `adain`
    """
    starts = torch.stack([slerp(a, b, ratio) for a, b in pairwise(noise) for ratio in ratios])
    if not with_adain:
        return starts
    pairs = zip(starts.split(len(ratios)), pairwise(noise), strict=True)
    return torch.cat([adain(part, first, last, ratios) for part, (first, last) in pairs])


def walk_text(text: Conditioning, ratios: Sequence[float]) -> Conditioning:
    """The in-between conditionings of a chain of K, lerped part by part."""
    return Conditioning.cat([_between(text, at, ratio) for at in range(len(text) - 1) for ratio in ratios])


def _between(text: Conditioning, at: int, ratio: float) -> Conditioning:
    """One row, between the rows `at` and the next."""
    return text[[at]].combine(text[[at + 1]], lambda start, end: torch.lerp(start, end, ratio))


def walk_steps(
    model: DiffusionModel,
    noise: torch.Tensor,
    text: Conditioning,
    null: Conditioning,
    null_embeds: torch.Tensor | None,
    ratios: Sequence[float],
    num_inference_steps: int,
    guidance_scale: float,
    *,
    with_adain: bool = False,
) -> Iterator[DenoisingStep]:
    """Sample all in-between frames as one batch. The ends are known already: they are the reconstructions.

    noise        [K, C, h, w] noise ends of the pictures, in order
    text         [K, L, D] one per picture; null [1, L, D]
    null_embeds  [N, 1, L, D] shared null embeddings, or None for plain `null`
    """
    starts, frame_text = walk_starts(noise, ratios, with_adain=with_adain), walk_text(text, ratios)
    yield from denoise(
        model, starts, constant(frame_text), per_step(null, null_embeds), num_inference_steps, guidance_scale
    )
