"""How long the regulariser's finite difference is, relative to the noisy latents."""

from __future__ import annotations

import torch

from smoothtool.diffusion.model import DiffusionModel
from smoothtool.methods.smoothness.step_variation import Gradient

FLOAT32: dict[Gradient, float] = {"central": 3e-3, "one-sided": 1e-3, "forward-variation": 3e-3}
VELOCITY = 1e-3
"""The central one where the model predicts velocities: the gradient's error at t = 980 is 1.7e-4 with it, and 1.6e-3
with 3e-3 (a tiny model in float32)."""
COARSE = 0.03
"""Where products are rounded to 10 bits, as TF32 and float16 do."""


def finite_difference_step(gradient: Gradient, model: DiffusionModel) -> float:
    """What the precision of the perturbed passes allows: float32, TF32 or float16."""
    if not (model.device.type == "cpu" and model.unet.dtype == torch.float32):
        return COARSE
    if gradient == "central" and model.schedule.prediction_type == "v_prediction":
        return VELOCITY
    return FLOAT32.get(gradient, COARSE)
