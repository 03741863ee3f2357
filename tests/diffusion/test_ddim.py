"""The schedule and the one step, with diffusers as second witness."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler
from toys import SD_SCHEDULE

from smoothtool.diffusion.ddim import (
    Schedule,
    add_noise,
    ddim_step,
    noise_coefficient,
    noise_from_velocity,
    pred_original_sample,
)


@pytest.fixture
def schedule() -> Schedule:
    return Schedule.from_config(SD_SCHEDULE)


def test_fifty_steps_of_stable_diffusion_are_981_to_1(schedule: Schedule) -> None:
    assert schedule.timesteps(50) == tuple(range(981, 0, -20))


def test_the_last_step_lands_on_the_final_alpha(schedule: Schedule) -> None:
    timestep, _, alpha_to = schedule.alpha_pairs(50)[-1]
    assert timestep == 1
    assert alpha_to == schedule.final_alpha_cumprod == schedule.alphas_cumprod[0]


def test_sampling_equals_diffusers(schedule: Schedule) -> None:
    scheduler = DDIMScheduler.from_config(SD_SCHEDULE)
    scheduler.set_timesteps(50)
    latents, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    for timestep, alpha_from, alpha_to in schedule.alpha_pairs(50):
        theirs = scheduler.step(noise, timestep, latents).prev_sample
        torch.testing.assert_close(ddim_step(latents, noise, alpha_from, alpha_to), theirs, rtol=2e-5, atol=2e-5)


def test_inverting_equals_diffusers(schedule: Schedule) -> None:
    scheduler = DDIMInverseScheduler.from_config(SD_SCHEDULE)
    scheduler.set_timesteps(50)
    latents, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    for timestep, alpha_high, alpha_low in reversed(schedule.alpha_pairs(50)):
        theirs = scheduler.step(noise, timestep, latents).prev_sample
        torch.testing.assert_close(ddim_step(latents, noise, alpha_low, alpha_high), theirs, rtol=2e-4, atol=2e-4)


def test_a_step_there_and_back_changes_nothing(schedule: Schedule) -> None:
    latents, noise = torch.randn(1, 4, 8, 8).double(), torch.randn(1, 4, 8, 8).double()
    _, high, low = schedule.alpha_pairs(50)[20]
    back = ddim_step(ddim_step(latents, noise, low, high), noise, high, low)
    torch.testing.assert_close(back, latents, rtol=1e-12, atol=1e-12)


def test_the_noise_coefficient_is_the_derivative_of_the_step(schedule: Schedule) -> None:
    _, high, low = schedule.alpha_pairs(50)[10]
    latents, noise = torch.randn(1, 4, 8, 8).double(), torch.randn(1, 4, 8, 8).double()
    change = ddim_step(latents, noise + 1, high, low) - ddim_step(latents, noise, high, low)
    torch.testing.assert_close(change, torch.full_like(change, noise_coefficient(high, low)))


def test_velocity_and_noise_tell_the_same(schedule: Schedule) -> None:
    image, noise, alpha = torch.randn(3, 4, 8, 8).double(), torch.randn(3, 4, 8, 8).double(), 0.3
    latents = add_noise(image, noise, alpha)
    velocity = alpha**0.5 * noise - (1 - alpha) ** 0.5 * image
    torch.testing.assert_close(noise_from_velocity(latents, velocity, alpha), noise)
    torch.testing.assert_close(pred_original_sample(latents, noise, alpha), image)
