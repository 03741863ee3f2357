"""EDICT: two coupled latents make DDIM sampling exactly invertible.

Wallace, Gokul & Naik, EDICT: Exact Diffusion Inversion via Coupled Transformations, CVPR 2023 (arXiv:2211.12446),
eqs. 12 to 15. With the DDIM step t -> s written as  z_s = a z_t + b eps,  sampling is

    x' = a x + b eps(y, t)      x_s = p x' + (1 - p) y'
    y' = a y + b eps(x', t)     y_s = p y' + (1 - p) x_s

and each line can be undone without solving anything. Undoing divides by p twice a step, so the two latents drift apart
on the way to noise, and together again on the way back: rounding does not build up. The paper's float64 makes the
round trip exact to 1e-15; in float32 it errs by 2e-6.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from smoothtool.diffusion.ddim import latents_coefficient, noise_coefficient
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import ConditioningAt, DenoisingStep, guided_noise
from smoothtool.methods.inversion.ddim import InversionStep
from smoothtool.types import Conditioning

MIXING = 0.93
"""p: the paper's choice."""


@dataclass(frozen=True)
class EdictInversionStep(InversionStep):
    """`latents` is x, `coupled` is y, both [B, C, h, w] float64."""

    coupled: torch.Tensor


@dataclass(frozen=True)
class EdictStep(DenoisingStep):
    """`latents` is x, `coupled` is y, both [B, C, h, w] float64."""

    coupled: torch.Tensor


def finest(latents: torch.Tensor) -> torch.Tensor:
    """float64 where the device has it; Apple's GPU does not."""
    return latents.float() if latents.device.type == "mps" else latents.double()


@torch.no_grad()
def edict_inversion_steps(
    model: DiffusionModel, latents: torch.Tensor, text: Conditioning, num_inference_steps: int
) -> Iterator[EdictInversionStep]:
    """Both latents from the image [B, C, h, w] to noise at guidance 1; two UNet calls a step."""
    x = y = finest(latents)
    text = text.expand(len(latents))
    for step_index, (t, alpha_from, alpha_to) in reversed(
        list(enumerate(model.schedule.alpha_pairs(num_inference_steps)))
    ):
        a, b = latents_coefficient(alpha_from, alpha_to), noise_coefficient(alpha_from, alpha_to)
        y_mid = (y - (1 - MIXING) * x) / MIXING
        x_mid = (x - (1 - MIXING) * y_mid) / MIXING
        y = (y_mid - b * model.predict_noise(x_mid, t, text)) / a
        x = (x_mid - b * model.predict_noise(y, t, text)) / a
        yield EdictInversionStep(step_index, t, x, y)


@torch.no_grad()
def edict_steps(
    model: DiffusionModel,
    latents: torch.Tensor,
    coupled: torch.Tensor,
    text_at: ConditioningAt,
    null_at: ConditioningAt,
    num_inference_steps: int,
    guidance_scale: float,
    start: int = 0,
) -> Iterator[EdictStep]:
    """Sample from step `start`, where the pair stands at latents = x and coupled = y; two guided UNet calls a step."""
    x, y = finest(latents), finest(coupled)
    for step_index, (t, alpha_from, alpha_to) in list(enumerate(model.schedule.alpha_pairs(num_inference_steps)))[
        start:
    ]:
        text, null = text_at(step_index), null_at(step_index)
        a, b = latents_coefficient(alpha_from, alpha_to), noise_coefficient(alpha_from, alpha_to)
        x_mid = a * x + b * guided_noise(model, y, t, text, null, guidance_scale)
        noise = guided_noise(model, x_mid, t, text, null, guidance_scale)
        y_mid = a * y + b * noise
        x = MIXING * x_mid + (1 - MIXING) * y_mid
        y = MIXING * y_mid + (1 - MIXING) * x
        yield EdictStep(step_index, t, x, noise, y)
