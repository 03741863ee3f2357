"""What training asks of a model beyond sampling: a timestep per sample."""

from __future__ import annotations

from collections.abc import Callable

import torch

from smoothtool.diffusion.ddim import noise_from_velocity
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.types import Conditioning


def predict_noise_at(
    model: DiffusionModel,
    latents: torch.Tensor,
    timesteps: torch.Tensor,
    conditioning: Conditioning,
    unet: Callable[..., tuple[torch.Tensor, ...]] | None = None,
) -> torch.Tensor:
    """eps [B, C, h, w] in float32 (v where abar = 0), every sample at its own time; differentiable.

    latents    [B, C, h, w]
    timesteps  [B] whole numbers
    unet       stands in for the model's own, for example compiled
    """
    model.counter.calls += 1
    model.counter.rows += len(latents)
    conditions = model.unet_conditions(latents, conditioning)
    out = (model.unet if unet is None else unet)(
        latents.to(model.unet.dtype), timesteps, **conditions, return_dict=False
    )[0].float()
    if model.schedule.prediction_type == "v_prediction":
        return noise_from_velocity(latents, out, model.schedule.alpha_prods(timesteps))
    return out
