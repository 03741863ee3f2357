"""DDIM inversion against closed forms."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from toys import SD_SCHEDULE

from smoothtool.diffusion.ddim import Schedule
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import constant, denoise
from smoothtool.methods.inversion.ddim import ddim_inversion_steps, trajectory_of
from smoothtool.types import Conditioning

EMPTY = Conditioning(torch.zeros(1, 2, 3))
Predict = Callable[[torch.Tensor, int, Conditioning], torch.Tensor]


def stand_in(predict: Callable[[Schedule], Predict]) -> SimpleNamespace:
    """A model whose noise prediction is a formula."""
    schedule = Schedule.from_config(SD_SCHEDULE)
    return SimpleNamespace(schedule=schedule, predict_noise=predict(schedule))


def gaussian_data(schedule: Schedule, deviation: float = 0.5) -> Predict:
    """The exact denoiser of N(0, s^2) data: eps = sqrt(1 - abar) z / (abar s^2 + 1 - abar)."""

    def predict(latents: torch.Tensor, timestep: int, text: Conditioning) -> torch.Tensor:
        alpha = schedule.alpha_prod(timestep)
        return (1 - alpha) ** 0.5 * latents / (alpha * deviation**2 + 1 - alpha)

    return predict


def round_trip_error(model: SimpleNamespace, steps: int) -> float:
    image = torch.randn(1, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    *_, inverted = ddim_inversion_steps(model, image, EMPTY, steps)  # type: ignore[arg-type]
    *_, sampled = denoise(model, inverted.latents, constant(EMPTY), constant(EMPTY), steps, 1.0)  # type: ignore[arg-type]
    return float((sampled.latents - image).abs().max())


def test_inverting_then_denoising_returns_the_image_when_noise_is_constant() -> None:
    noise = torch.randn(1, 4, 8, 8, dtype=torch.float64)
    assert round_trip_error(stand_in(lambda schedule: lambda *_: noise), 50) < 1e-12


def test_the_error_on_gaussian_data_falls_as_one_over_the_steps() -> None:
    coarse, fine = (round_trip_error(stand_in(gaussian_data), steps) for steps in (50, 200))
    assert 3.0 < coarse / fine < 5.5


def test_the_trajectory_runs_from_the_image_to_noise(model: DiffusionModel) -> None:
    latents = torch.randn(2, 4, 16, 16)
    steps = list(ddim_inversion_steps(model, latents, model.encode_prompts(["", "a cat"]), 5))
    trajectory = trajectory_of(latents, steps)
    assert trajectory.latents.shape == (6, 2, 4, 16, 16)
    assert trajectory.timesteps == model.schedule.timesteps(5)
    assert torch.equal(trajectory.entering(0), steps[-1].latents)
    assert torch.equal(trajectory.entering(5), latents)


@pytest.mark.parametrize(("strength", "count"), [(0.0, 0), (0.7, 7), (1.0, 10)])
def test_strength_says_how_far_inversion_goes(model: DiffusionModel, strength: float, count: int) -> None:
    steps = list(ddim_inversion_steps(model, torch.randn(1, 4, 16, 16), model.encode_prompts([""]), 10, strength))
    assert len(steps) == count
    if count:
        assert steps[-1].step_index == 10 - count
        assert steps[-1].timestep == model.schedule.timesteps(10)[10 - count]
