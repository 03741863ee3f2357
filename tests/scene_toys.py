"""What every editing method starts from."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from smoothtool.diffusion.model import DiffusionModel
from smoothtool.types import Conditioning, Inversion


@dataclass
class Scene:
    """A picture's latents, its inversion under the source prompt, and the prompts of an edit."""

    model: DiffusionModel
    latents: torch.Tensor
    source: Conditioning
    target: Conditioning
    null: Conditioning
    inversion: Inversion

    @property
    def path(self) -> torch.Tensor:
        assert self.inversion.sampled is not None
        return self.inversion.sampled
