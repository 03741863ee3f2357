"""Whether a step may be trained on: its figures are numbers, and the regulariser's finite differences are right."""

from __future__ import annotations

import torch

from smoothtool.errors import ModelError
from smoothtool.training.gradients import UNRESOLVED

CHECKED_AT_LEAST, MOST_UNRESOLVED = 8, 0.25
"""After so many checks, a larger share of unresolved samples ends the training."""


class StepChecks:
    """Counts samples whose finite difference was compared with a longer one, since this process began."""

    def __init__(self, relative_step: float) -> None:
        self.relative_step = relative_step
        self.checked = self.unresolved = 0

    def resolved(self, number: int, figures: torch.Tensor) -> tuple[int, int]:
        """How many differences of step `number` were compared, and how many of those were not resolved.

        figures  [samples, 5] of `StepGradients.add_up`, on the CPU

        Raises: ModelError when that is the rule rather than the exception.
        """
        disagreements = figures[:, 4]
        checked, unresolved = int((disagreements >= 0).sum()), int((disagreements > UNRESOLVED).sum())
        self.checked, self.unresolved = self.checked + checked, self.unresolved + unresolved
        if self.checked >= CHECKED_AT_LEAST and self.unresolved > MOST_UNRESOLVED * self.checked:
            share = f"{self.unresolved} of {self.checked} samples"
            raise ModelError(
                f"step {number}: the regulariser's difference of relative step {self.relative_step:g} is wrong for "
                f"{share}",
                "--dtype float32 without --mixed-precision, another --relative-step, or --gradient double-backward",
            )
        return checked, unresolved


def check_finite(number: int, figures: torch.Tensor, length: torch.Tensor, *, scaled: bool) -> None:
    """figures [samples, 5] and the gradient's length are numbers.

    scaled  whether the loss is scaled: float16's gradients may then overflow now and then, and that step is skipped

    Raises: ModelError.
    """
    bad = ~figures.isfinite().all(dim=1)
    if bool(bad.any()):
        _refuse(number, "the loss", figures[bad, 0])
    if not scaled and not bool(length.isfinite()):
        _refuse(number, "the gradient", figures[:, 0])


def _refuse(number: int, what: str, timesteps: torch.Tensor) -> None:
    times = ", ".join(str(int(t)) for t in timesteps[:8])
    raise ModelError(
        f"step {number}: {what} is not a number, at timesteps {times}",
        "a lower --learning-rate with --resume --force, from the last checkpoint",
    )
