"""O-BELM: an exactly invertible sampler that needs one UNet call a step.

Wang et al., BELM: Bidirectional Explicit Linear Multi-step Samplers, NeurIPS 2024 (arXiv:2410.07273), the optimal
two-step member. Levels k = 0 (image) .. N (noise), a = sqrt(abar), u = sqrt(1 - abar) / a, h_k = u_k - u_{k-1}:

    z_k = (a_k / a_{k-2}) q^2 z_{k-2} + (a_k / a_{k-1}) (1 - q^2) z_{k-1} + a_k (h_{k-1} + h_k) q eps(z_{k-1}),
    q = h_k / h_{k-1}

Three neighbours satisfy one linear relation, so either end follows from the other two: inversion solves it for z_k,
sampling for z_{k-2}, with the same noise prediction. Only z_1 is not determined by it: it is DDIM inversion's.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from smoothtool.diffusion.ddim import ddim_step
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import ConditioningAt, DenoisingStep, guided_noise
from smoothtool.errors import UsageError
from smoothtool.methods.inversion.ddim import InversionStep
from smoothtool.methods.inversion.edict import finest
from smoothtool.types import Conditioning


@torch.no_grad()
def belm_inversion_steps(
    model: DiffusionModel, latents: torch.Tensor, text: Conditioning, num_inference_steps: int
) -> Iterator[InversionStep]:
    """From the image [B, C, h, w] to noise in float64 at guidance 1."""
    alphas, times = _levels(model, num_inference_steps)
    text = text.expand(len(latents))
    older = finest(latents)
    newer = ddim_step(older, model.predict_noise(older, times[1], text), alphas[0], alphas[1])
    yield InversionStep(num_inference_steps - 1, times[1], newer)
    for level in range(2, num_inference_steps + 1):
        far, near, noise = _coefficients(alphas, level)
        predicted = model.predict_noise(newer, times[level - 1], text)
        older, newer = newer, far * older + near * newer + noise * predicted
        yield InversionStep(num_inference_steps - level, times[level], newer)


@torch.no_grad()
def belm_steps(
    model: DiffusionModel,
    noisier: torch.Tensor,
    latents: torch.Tensor,
    text_at: ConditioningAt,
    null_at: ConditioningAt,
    num_inference_steps: int,
    guidance_scale: float,
    start: int = 1,
) -> Iterator[DenoisingStep]:
    """Sample from step `start` >= 1: `latents` enter it, and `noisier` entered the step before it.

    A pair that comes from the inversion goes back along it exactly, as long as the noise predictions are the same.
    """
    alphas, times = _levels(model, num_inference_steps)
    older, newer = finest(noisier), finest(latents)
    for step_index in range(start, num_inference_steps):
        level = num_inference_steps - step_index + 1
        far, near, noise = _coefficients(alphas, level)
        predicted = guided_noise(
            model, newer, times[level - 1], text_at(step_index), null_at(step_index), guidance_scale
        )
        older, newer = newer, (older - near * newer - noise * predicted) / far
        yield DenoisingStep(step_index, times[level - 1], newer, predicted)


def _levels(model: DiffusionModel, num_inference_steps: int) -> tuple[list[float], list[int]]:
    """abar and time of levels 0..N; level 0 lies before time 0 and takes the schedule's final abar."""
    pairs = model.schedule.alpha_pairs(num_inference_steps)[::-1]
    if pairs[0][2] == pairs[0][1]:
        what = "BELM needs a step below the lowest one, and this model's schedule ends there"
        raise UsageError(what, "--inversion edict, or steps_offset 1 in scheduler_config.json")
    if pairs[-1][1] == 0:
        what = "BELM divides by the signal, and this model's noisiest level has none (zero terminal SNR)"
        raise UsageError(what, "--inversion edict")
    return [pairs[0][2], *(pair[1] for pair in pairs)], [0, *(pair[0] for pair in pairs)]


def _coefficients(alphas: list[float], level: int) -> tuple[float, float, float]:
    """What z_{level-2}, z_{level-1} and eps(z_{level-1}) count in z_level."""
    a = [alphas[at] ** 0.5 for at in (level - 2, level - 1, level)]
    u = [(1 - alphas[at]) ** 0.5 / alphas[at] ** 0.5 for at in (level - 2, level - 1, level)]
    h_before, h = u[1] - u[0], u[2] - u[1]
    q = h / h_before
    return a[2] / a[0] * q**2, a[2] / a[1] * (1 - q**2), a[2] * (h_before + h) * q
