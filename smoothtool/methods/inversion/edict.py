"""EDICT: two coupled latents make DDIM sampling exactly invertible.

Wallace, Gokul & Naik, EDICT: Exact Diffusion Inversion via Coupled Transformations, CVPR 2023 (arXiv:2211.12446),
eqs. 12 to 15. With the DDIM step t -> s written as  z_s = a z_t + b eps,  sampling is

    x' = a x + b eps(y, t)      x_s = p x' + (1 - p) y'
    y' = a y + b eps(x', t)     y_s = p y' + (1 - p) x_s

in steps of even index; in those of odd index y' comes first, from x, and x' from y', as in the program. (Without that
the latent that always moves first falls behind, and the pair drifts apart.) Each line can be undone without solving
anything. Undoing divides by p twice a step, so the two latents part on the way to noise, and come together again on
the way back: rounding does not build up. The paper's float64 makes the round trip exact to 1e-15; in float32 it errs
by 2e-6.

On purpose not as in the program: it counts the steps of an edit from the edit's own first step, here a step has its
index in the whole schedule, so that an edit may begin anywhere on a stored inversion.
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
        first, second = _in_turn(x_mid, y_mid, step_index)
        second = (second - b * model.predict_noise(first, t, text)) / a
        first = (first - b * model.predict_noise(second, t, text)) / a
        x, y = _in_turn(first, second, step_index)
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
        first, second = _in_turn(x, y, step_index)
        first = a * first + b * guided_noise(model, second, t, text, null, guidance_scale)
        noise = guided_noise(model, first, t, text, null, guidance_scale)
        second = a * second + b * noise
        x_mid, y_mid = _in_turn(first, second, step_index)
        x = MIXING * x_mid + (1 - MIXING) * y_mid
        y = MIXING * y_mid + (1 - MIXING) * x
        yield EdictStep(step_index, t, x, noise, y)


def _in_turn(x: torch.Tensor, y: torch.Tensor, step_index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(the one that sampling moves first in this step, the other); the same call puts a moved pair back in order."""
    return (y, x) if step_index % 2 else (x, y)
