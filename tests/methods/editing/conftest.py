"""A source picture, its inversion, and prompts for every editing method."""

from __future__ import annotations

import pytest
import torch
from scene_toys import Scene

from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import constant, denoise
from smoothtool.methods.inversion.ddim import ddim_inversion_steps, trajectory_of
from smoothtool.types import Inversion

N, W = 6, 3.0


@pytest.fixture
def scene(model: DiffusionModel) -> Scene:
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    source, target, null = (model.encode_prompts([text]) for text in ("a red cat", "a red dog", ""))
    trajectory = trajectory_of(latents, list(ddim_inversion_steps(model, latents, source, N)))
    steps = list(denoise(model, trajectory.noise, constant(source), constant(null), N, W))
    sampled = torch.stack([trajectory.noise, *(step.latents for step in steps)])
    inversion = Inversion("ddim", trajectory, steps[-1].latents, ("a red cat",), W, sampled=sampled)
    model.counter.calls = model.counter.rows = 0
    return Scene(model, latents, source, target, null, inversion)
