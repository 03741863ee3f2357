"""ANID, "Interpolating between Images with Diffusion Models" (Wang & Golland 2023, arXiv:2307.12560).

2^k + 1 frames, filled in from the middle: level 1 interpolates the noised pictures to their middle frame where the
noise is strongest, level 2 puts frames between those neighbours where it is weaker, and so on. Between levels all
in-between frames are denoised. As in the authors' program:

    noise     both pictures share fresh increments from each level to the next noisier one,
              z_t = (a_t / a_s) z_s + sqrt(1 - a_t^2 - (a_t / a_s)^2 (1 - a_s^2)) n_t,   a = sqrt(abar)
    middles   at levels 2 and 3 the frames of the level before are interpolated anew between their new neighbours

The published extras (pose guidance, candidate ranking, embedding tuning) are left out. On purpose not as in the
program: it takes every level's noise one step further than it denoises from; here both are the same step.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise, zip_longest

import torch

from smoothtool.diffusion.ddim import add_noise
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import constant, denoise
from smoothtool.errors import UsageError
from smoothtool.methods.interpolation.slerp import slerp
from smoothtool.methods.interpolation.walk import walk_text
from smoothtool.types import Conditioning

STRONGEST_FRACTION, WEAKEST_FRACTION = 0.5, 0.25
INTERPOLATED_ANEW = (2, 3)
"""Levels at which the program puts older frames between their new neighbours; it knows no deeper rule."""


@dataclass(frozen=True)
class AnidStep:
    """One denoising step of a level: `latents` [2^level - 1, C, h, w], the in-between frames so far, in order."""

    level: int
    step_index: int
    latents: torch.Tensor


def noise_steps(levels: int, num_inference_steps: int) -> list[int]:
    """How many denoising steps each level's noise is away from the image: 50 % of N falling linearly to 25 %.

    Whole numbers, rounded down. The only level of three frames is the weakest.
    Raises: UsageError when there are fewer steps than distinct levels need.
    """
    weakest, strongest = (int(part * num_inference_steps) for part in (WEAKEST_FRACTION, STRONGEST_FRACTION))
    stride = (strongest - weakest) / max(1, levels - 1)
    counts = [int(weakest + stride * level) for level in reversed(range(levels))]
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
    *,
    anew: Collection[int] = INTERPOLATED_ANEW,
) -> Iterator[AnidStep]:
    """Fill in 2^levels - 1 frames between two pictures; the last step holds them at the image end.

    latents  [2, C, h, w] z_0 of the two pictures
    text     [2, L, D], lerped for the frames; null [1, L, D]
    noise    [levels, C, h, w] the increments, the weakest level's first, shared by both pictures
    anew     levels at which the frames of the level before are interpolated again
    Raises: UsageError when there are too few steps.
    """
    counts = noise_steps(levels, num_inference_steps)
    pairs = model.schedule.alpha_pairs(num_inference_steps)
    noised = noised_ends(latents, noise, [pairs[num_inference_steps - count][1] for count in counts])
    between = latents[:0]
    for level, (count, next_count) in enumerate(pairwise([*counts, 0]), start=1):
        start, ends = num_inference_steps - count, noised[level - 1]
        between = with_midpoints(torch.cat([ends[:1], between, ends[1:]]), anew=level in anew)
        frames = len(between) + 1
        frame_text = walk_text(text, [index / frames for index in range(1, frames)])
        steps = denoise(
            model, between, constant(frame_text), constant(null), num_inference_steps, guidance_scale, start
        )
        for step in islice(steps, count - next_count):
            between = step.latents
            yield AnidStep(level, step.step_index, between)


def noised_ends(latents: torch.Tensor, noise: torch.Tensor, alpha_prods: Sequence[float]) -> list[torch.Tensor]:
    """The pictures [2, C, h, w] at every level's noise, each from the level with less.

    noise        [levels, C, h, w] increments, the weakest level's first
    alpha_prods  abar per level, the noisiest first, like what comes back
    """
    noised, reached = [latents], 1.0
    for alpha_prod, increment in zip(reversed(alpha_prods), noise, strict=True):
        noised.append(add_noise(noised[-1], increment, alpha_prod / reached))
        reached = alpha_prod
    return noised[:0:-1]


def with_midpoints(frames: torch.Tensor, *, anew: bool = False) -> torch.Tensor:
    """frames [F, C, h, w] -> the 2 F - 3 frames between the ends: slerp midpoints, and the old ones between them.

    anew  the old ones are replaced by the midpoints of their new neighbours
    """
    middles = [slerp(a, b, 0.5) for a, b in pairwise(frames)]
    old = [slerp(a, b, 0.5) for a, b in pairwise(middles)] if anew else list(frames[1:-1])
    mixed = [frame for pair in zip_longest(middles, old) for frame in pair]
    return torch.stack(mixed[:-1])
