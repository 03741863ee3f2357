"""How long the regulariser's finite difference is, relative to the noisy latents, and where no length will do.

Too long a difference meets the curvature of the model, too short a one the rounding of its passes. Both errors are
drawn against the length by tests/benchmarks/bench_difference.py, per prediction type and arithmetic, beside the double
backward; the lengths below are where the worst samples err least.
"""

from __future__ import annotations

import torch

from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import UsageError
from smoothtool.methods.smoothness.step_variation import Gradient

EXACT: dict[str, dict[Gradient, float]] = {
    "epsilon": {"central": 3e-4, "one-sided": 3e-4, "forward-variation": 3e-4},
    "v_prediction": {"central": 3e-5, "one-sided": 3e-5, "forward-variation": 1e-4},
}
"""In true float32. For noise they are shorter than is best for the benchmark's random weights, since trained ones curve
more. For velocities the worst of 21 samples of the embedded model was wrong by 0.6 % with 3e-5 and by 280 % with 1e-3.
"""
COARSE: dict[str, dict[Gradient, float]] = {
    "epsilon": {"central": 0.03, "one-sided": 0.03, "forward-variation": 0.03},
    "v_prediction": {},
}
"""Where products are rounded to 10 bits, as TF32 and float16 do."""


def finite_difference_step(gradient: Gradient, model: DiffusionModel, *, mixed: bool = False) -> float | None:
    """The length r for this model, and None where none is resolved; `double-backward` takes none and gets 0.

    mixed  whether the perturbed passes run under autocast
    """
    if gradient == "double-backward":
        return 0.0
    exact = model.unet.dtype == torch.float32 and not mixed
    lengths = EXACT if exact and (model.device.type == "cpu" or _needs_float32(gradient, model)) else COARSE
    return lengths[model.schedule.prediction_type].get(gradient)


def required_difference_step(gradient: Gradient, model: DiffusionModel, *, mixed: bool = False) -> float:
    """The length r.

    Raises: UsageError where none is resolved.
    """
    length = finite_difference_step(gradient, model, mixed=mixed)
    if length is None:
        raise UsageError(
            f"--gradient {gradient}: this model predicts velocities, whose differences need float32 passes",
            "--dtype float32 without --mixed-precision, or --gradient double-backward",
        )
    return length


def forbid_tf32(gradient: Gradient, model: DiffusionModel) -> None:
    """True float32 products on CUDA where there is no length for TF32."""
    if _needs_float32(gradient, model):
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def _needs_float32(gradient: Gradient, model: DiffusionModel) -> bool:
    return gradient != "double-backward" and gradient not in COARSE[model.schedule.prediction_type]
