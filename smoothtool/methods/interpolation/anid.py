"""ANID, "Interpolating between Images with Diffusion Models" (Wang & Golland 2023, arXiv:2307.12560).

2^k + 1 frames, filled in from the middle: level 1 interpolates the noised pictures to their middle frame where the
noise is strongest, level 2 puts frames between those neighbours where it is weaker, and so on. Between levels all
in-between frames are denoised. The published extras (pose guidance, candidate ranking, embedding tuning) are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, pairwise

import torch

from smoothtool.diffusion.ddim import add_noise
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import constant, denoise
from smoothtool.errors import UsageError
from smoothtool.methods.interpolation.slerp import slerp
from smoothtool.methods.interpolation.walk import walk_text
from smoothtool.types import Conditioning

STRONGEST_FRACTION, WEAKEST_FRACTION = 0.5, 0.25


@dataclass(frozen=True)
class AnidStep:
    """One denoising step of a level: `latents` [2^level - 1, C, h, w], the in-between frames so far, in order."""

    level: int
    step_index: int
    latents: torch.Tensor


def noise_steps(levels: int, num_inference_steps: int) -> list[int]:
    """How many denoising steps each level's noise is away from the image: 50 % of N falling linearly to 25 %.

    Raises: UsageError when there are fewer steps than distinct levels need.
    """
    span = STRONGEST_FRACTION - WEAKEST_FRACTION
    fractions = [STRONGEST_FRACTION - span * level / max(1, levels - 1) for level in range(levels)]
    counts = [round(fraction * num_inference_steps) for fraction in fractions]
    if levels < 1 or any(later >= earlier for earlier, later in pairwise([*counts, 0])):
        raise UsageError(
            f"{num_inference_steps} steps are too few for {levels} levels of frames", f"--steps {8 * max(1, levels)}"
        )
    return counts


def anid_steps(
    model: DiffusionModel,
    latents: torch.Tensor,
    text: Conditioning,
    null: Conditioning,
    noise: torch.Tensor,
    levels: int,
    num_inference_steps: int,
    guidance_scale: float,
) -> Iterator[AnidStep]:
    """Fill in 2^levels - 1 frames between two pictures; the last step holds them at the image end.

    latents  [2, C, h, w] z_0 of the two pictures
    text     [2, L, D], lerped for the frames; null [1, L, D]
    noise    [1, C, h, w], shared by both pictures and all levels
    Raises: UsageError when there are too few steps.
    """
    counts = noise_steps(levels, num_inference_steps)
    pairs = model.schedule.alpha_pairs(num_inference_steps)
    between = latents[:0]
    for level, (count, next_count) in enumerate(pairwise([*counts, 0]), start=1):
        start = num_inference_steps - count
        ends = add_noise(latents, noise, pairs[start][1])
        between = with_midpoints(torch.cat([ends[:1], between, ends[1:]]))
        frames = len(between) + 1
        frame_text = walk_text(text, [index / frames for index in range(1, frames)])
        steps = denoise(
            model, between, constant(frame_text), constant(null), num_inference_steps, guidance_scale, start
        )
        for step in islice(steps, count - next_count):
            between = step.latents
            yield AnidStep(level, step.step_index, between)


def with_midpoints(frames: torch.Tensor) -> torch.Tensor:
    """frames [F, C, h, w] -> the 2 F - 3 frames between the ends: slerp midpoints, and the old ones between them."""
    middles = [slerp(a, b, 0.5) for a, b in pairwise(frames)]
    mixed = [frame for pair in zip(middles, frames[1:], strict=True) for frame in pair]
    return torch.stack(mixed[:-1])
