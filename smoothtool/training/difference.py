"""How long the regulariser's finite difference is, relative to the noisy latents."""

from __future__ import annotations

import torch

from smoothtool.diffusion.model import DiffusionModel
from smoothtool.methods.smoothness.step_variation import Gradient

FLOAT32: dict[Gradient, float] = {"central": 3e-3, "one-sided": 1e-3, "forward-variation": 3e-3}
VELOCITY = 1e-3
"""The central one where the model predicts velocities: the gradient's error at t = 980 is 1.7e-4 with it, and 1.6e-3
with 3e-3 (a tiny model in float32). On the embedded model it is 1e-4 to 4e-2 for two samples in three. The others, near
the noisiest steps, have curvature so sharp that no step of a usable length resolves it (54 % at 1e-3 for one of them):
there the difference is the gradient of a smoothed regulariser, and the cut of long gradients bounds what it can do.
"""
COARSE = 0.03
"""Where products are rounded to 10 bits, as TF32 and float16 do."""


def finite_difference_step(gradient: Gradient, model: DiffusionModel, *, mixed: bool = False) -> float:
    """What the precision of the perturbed passes allows: float32, TF32 or float16.

    mixed  whether they run under autocast
    """
    exact = model.unet.dtype == torch.float32 and not mixed
    if not exact or (model.device.type != "cpu" and not _needs_float32(gradient, model)):
        return COARSE
    if gradient == "central" and model.schedule.prediction_type == "v_prediction":
        return VELOCITY
    return FLOAT32.get(gradient, COARSE)


def forbid_tf32(gradient: Gradient, model: DiffusionModel) -> None:
    """True float32 products on CUDA, where the step that TF32 needs would be too long: for velocities (errors of 3 to
    160 % of the gradient on the embedded model), and for the one-sided difference, whose error grows with its length.
    """
    if _needs_float32(gradient, model):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def _needs_float32(gradient: Gradient, model: DiffusionModel) -> bool:
    velocities = model.schedule.prediction_type == "v_prediction"
    return gradient == "one-sided" or (gradient == "central" and velocities)
