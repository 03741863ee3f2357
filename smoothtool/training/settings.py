"""The numbers of a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from smoothtool.methods.smoothness.step_variation import Gradient
from smoothtool.types import LoraInit


@dataclass(frozen=True)
class TrainSettings:
    """Names as in the job, meaning as in its help."""

    max_steps: int
    batch_size: int = 1
    accumulate: int = 1
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    warmup_steps: int = 0
    max_grad_norm: float = 1.0
    prompt_dropout: float = 0.0
    seed: int = 0
    rank: int = 8
    init: LoraInit = "gaussian"
    full: bool = False
    ema: float = 0.0
    variation_weight: float = 1.0
    every: int = 1
    gradient: Gradient = "central"
    relative_step: float | None = None
    running_mean_start: Literal["first-batch", "zero"] = "first-batch"
    gradient_checkpointing: bool = False
    compile: bool = False

    def regularises(self, step: int) -> bool:
        """Whether this step, counted from 0, has the regulariser: every K-th has, with K times its weight.

        Lazy regularisation (Karras et al., StyleGAN2, CVPR 2020, arXiv:1912.04958, appendix B). Their change of Adam's
        rate and betas has no part in it: it makes up for a second update of its own, and here both losses share one.
        """
        return self.variation_weight > 0 and step % self.every == 0

    def differentiates_twice(self, step: int) -> bool:
        """Whether the regulariser's gradient is taken through a second backward pass in this step."""
        return self.gradient == "double-backward" and self.regularises(step)
