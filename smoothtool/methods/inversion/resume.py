"""Sampling on from an inversion: every inversion comes with the sampler, null embeddings and guidance it belongs to."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import ConditioningAt, DenoisingStep, Guidance, constant, denoise, guide, per_step
from smoothtool.methods.inversion.belm import belm_steps
from smoothtool.methods.inversion.edict import edict_steps
from smoothtool.methods.inversion.negative_prompt import proximal_guidance
from smoothtool.types import Conditioning, Inversion


def guidance_rule(inversion: Inversion) -> Guidance:
    """How both halves' predictions become one: ProxNPI has a rule of its own."""
    return proximal_guidance(inversion.proximal) if inversion.method == "proxnpi" else guide


def null_branch(inversion: Inversion, null: Conditioning) -> ConditioningAt:
    """What the null half is given at every step: the inversion's own embeddings where it has them, else `null`."""
    return per_step(null, inversion.null_embeds, inversion.null_pooled)


def source_path(model: DiffusionModel, inversion: Inversion, source: Conditioning, null: Conditioning) -> torch.Tensor:
    """The latents [N+1, B, C, h, w] of the source in sampling order; computed only when the inversion kept none."""
    if inversion.sampled is not None:
        return inversion.sampled
    null_at, steps = null_branch(inversion, null), inversion.num_inference_steps
    start = inversion.trajectory.noise
    path = denoise(model, start, constant(source), null_at, steps, inversion.guidance_scale)
    return torch.stack([start, *(step.latents for step in path)])


def resumed_steps(
    model: DiffusionModel,
    inversion: Inversion,
    path: torch.Tensor,
    text_at: ConditioningAt,
    null: Conditioning,
    guidance_scale: float,
    start: int,
) -> Iterator[DenoisingStep]:
    """Leave the source path [N+1, B, C, h, w] at step index `start` and sample to the image, with gradients nowhere."""
    steps, null_at = inversion.num_inference_steps, null_branch(inversion, null)
    if inversion.method == "edict":
        coupled = inversion.extra["coupled"].flip(0)
        yield from edict_steps(model, path[start], coupled[start], text_at, null_at, steps, guidance_scale, start)
    elif inversion.method == "belm" and start > 0:
        yield from belm_steps(model, path[start - 1], path[start], text_at, null_at, steps, guidance_scale, start)
    elif inversion.method == "belm":
        first = next(denoise(model, path[0], text_at, null_at, steps, guidance_scale))
        yield first
        yield from belm_steps(model, path[0], first.latents, text_at, null_at, steps, guidance_scale, 1)
    else:
        rule = guidance_rule(inversion)
        yield from denoise(model, path[start], text_at, null_at, steps, guidance_scale, start, rule)
