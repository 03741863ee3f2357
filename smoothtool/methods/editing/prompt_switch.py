"""Prompt switch: reconstruct with the source prompt, then go on with the target prompt.

Guo et al., Smooth Diffusion, CVPR 2024 (arXiv:2312.04410), eq. 15: from z*_N with the inversion's null embeddings,

    text_i = source while i < (1 - r) N, target from there on

Up to the switch the latents are the inversion's own path, so an edit costs r N steps, and r = 0 costs none.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import DenoisingStep, constant
from smoothtool.methods.inversion.resume import resumed_steps
from smoothtool.types import Conditioning, Inversion


def switch_index(ratio: float, num_inference_steps: int) -> int:
    """The first step under the target prompt: the least i with i >= (1 - r) N.

    Rounded before the ceiling, because (1 - 0.7) * 50 is 15.000000000000002 in floating point.
    """
    return math.ceil(round((1 - ratio) * num_inference_steps, 9))


def prompt_switch_steps(
    model: DiffusionModel,
    inversion: Inversion,
    path: torch.Tensor,
    target: Conditioning,
    null: Conditioning,
    ratio: float,
    guidance_scale: float,
) -> Iterator[DenoisingStep]:
    """The steps after the switch; none for ratio 0, where the result is `path[-1]`, the reconstruction.

    path    [N+1, B, C, h, w] latents of the source in sampling order, see `source_path`
    target  [B or 1, L, D] the target prompt; null [1, L, D], used where the inversion has no null embeddings
    ratio   r in [0, 1], the part of the steps that follows the target
    """
    start = switch_index(ratio, inversion.num_inference_steps)
    yield from resumed_steps(model, inversion, path, constant(target), null, guidance_scale, start)
