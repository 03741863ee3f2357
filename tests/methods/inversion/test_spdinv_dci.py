"""SPDInv and DCI where the solution of every step is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from toys import SD_SCHEDULE

from smoothtool.diffusion.ddim import Schedule, ddim_step, noise_coefficient
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import constant, denoise
from smoothtool.methods.inversion.dci import dci_steps
from smoothtool.methods.inversion.ddim import ddim_inversion_steps
from smoothtool.methods.inversion.fixed_point import fixed_point_steps
from smoothtool.methods.inversion.fixed_point_solvers import (
    FixedPointSolver,
    adamw_solver,
    anderson_solver,
    plain_solver,
)
from smoothtool.methods.inversion.spdinv import spdinv_steps
from smoothtool.types import Conditioning

N = 20
EMPTY = Conditioning(torch.zeros(1, 2, 3))
SCHEDULE = Schedule.from_config(SD_SCHEDULE)
PLAIN, ANDERSON = plain_solver(60, 1e-26), anderson_solver(60, 1e-26)


def stand_in(predict: Callable[[torch.Tensor, int], torch.Tensor]) -> SimpleNamespace:
    return SimpleNamespace(schedule=SCHEDULE, predict_noise=lambda latents, t, _: predict(latents, t))


def gaussian(latents: torch.Tensor, timestep: int) -> torch.Tensor:
    """The exact denoiser of N(0, 0.5^2) data."""
    return gain(timestep) * latents


def gain(timestep: int) -> float:
    alpha = SCHEDULE.alpha_prod(timestep)
    return (1 - alpha) ** 0.5 / (alpha * 0.25 + 1 - alpha)


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("solver", [PLAIN, ANDERSON])
def test_spdinv_solves_gaussian_data_in_closed_form(image: torch.Tensor, solver: FixedPointSolver) -> None:
    """eps = k z makes every step linear: z_t = sqrt(abar_t / abar_s) z_s / (1 - c k), c = d z_t / d eps."""
    wanted = image
    for step in spdinv_steps(stand_in(gaussian), image, EMPTY, N, solver):  # type: ignore[arg-type]
        t, high, low = SCHEDULE.alpha_pairs(N)[step.step_index]
        wanted = (high / low) ** 0.5 * wanted / (1 - noise_coefficient(low, high) * gain(t))
        torch.testing.assert_close(step.latents, wanted, rtol=1e-10, atol=1e-10)


def test_sampling_leads_back_from_spdinv_where_plain_inversion_misses(image: torch.Tensor) -> None:
    model = stand_in(gaussian)

    def missed(steps: Iterator[Any]) -> float:
        *_, noise = steps
        *_, back = denoise(model, noise.latents, constant(EMPTY), constant(EMPTY), N, 1.0)  # type: ignore[arg-type]
        return float((back.latents - image).abs().max())

    assert missed(spdinv_steps(model, image, EMPTY, N, ANDERSON)) < 1e-10  # type: ignore[arg-type]
    assert missed(ddim_inversion_steps(model, image, EMPTY, N)) > 1e-2  # type: ignore[arg-type]


def test_dci_follows_constant_noise_less_a_unit_step_from_the_picture(image: torch.Tensor) -> None:
    noise = torch.randn(2, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    away = noise - image
    pulled = noise - 2.0 * away / away.flatten(1).norm(dim=1).view(2, 1, 1, 1)
    wanted = image
    for step in dci_steps(stand_in(lambda *_: noise), image, EMPTY, N, PLAIN, pull=2.0):  # type: ignore[arg-type]
        _, high, low = SCHEDULE.alpha_pairs(N)[step.step_index]
        wanted = ddim_step(wanted, pulled, low, high)
        torch.testing.assert_close(step.latents, wanted, rtol=1e-10, atol=1e-10)


def test_dci_without_pull_is_spdinv(model: DiffusionModel, image: torch.Tensor) -> None:
    text = model.encode_prompts(["a cat"])
    image = image.float()
    ours = dci_steps(model, image, text, 2, anderson_solver(2), pull=0.0)
    for one, other in zip(ours, spdinv_steps(model, image, text, 2, anderson_solver(2)), strict=True):
        assert torch.equal(one.latents, other.latents)


def test_spdinv_by_three_plain_rounds_is_fixed_point_inversion(model: DiffusionModel, image: torch.Tensor) -> None:
    text = model.encode_prompts(["a cat", "a dog"])
    image = image.float()
    rounds = spdinv_steps(model, image, text, 2, plain_solver(3, threshold=0.0))
    for one, other in zip(rounds, fixed_point_steps(model, image, text, 2), strict=True):
        assert torch.equal(one.latents, other.latents)


@pytest.mark.parametrize("solver", [plain_solver(4, 0.0), anderson_solver(4, 0.0), adamw_solver(4, 0.0)])
def test_a_step_costs_one_unet_call_and_one_a_round(
    model: DiffusionModel, image: torch.Tensor, solver: FixedPointSolver
) -> None:
    next(iter(spdinv_steps(model, image.float(), model.encode_prompts(["a cat"]), 3, solver)))
    assert model.counter.calls == 1 + 4


def test_adamw_goes_where_anderson_goes(image: torch.Tensor) -> None:
    model = stand_in(gaussian)
    first, second = (
        next(iter(spdinv_steps(model, image, EMPTY, N, solver)))  # type: ignore[arg-type]
        for solver in (adamw_solver(200, 0.0, 3e-3), ANDERSON)
    )
    torch.testing.assert_close(first.latents, second.latents, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("rounds", "threshold"), [(3, 0.0), (1, 1e9)])
def test_dci_by_adamw_takes_the_programs_steps(image: torch.Tensor, rounds: int, threshold: float) -> None:
    """On Gaussian data, from a start that is not pulled, with f' = c k, c = d z_t / d eps: the pull counts as constant.

    A picture under the threshold takes that round's step, and no other.
    """
    rate, decay, first, second, pull = 1e-2, 1e-2, 0.9, 0.999, 30.0
    wanted = image
    for step in dci_steps(stand_in(gaussian), image, EMPTY, 3, adamw_solver(3, threshold, rate), pull):  # type: ignore[arg-type]
        t, high, low = SCHEDULE.alpha_pairs(3)[step.step_index]
        before, slope = wanted, noise_coefficient(low, high) * gain(t)
        wanted = ddim_step(before, gain(t) * before, low, high)
        mean, square = torch.zeros_like(image), torch.zeros_like(image)
        for count in range(1, rounds + 1):
            away = gain(t) * wanted - image
            pulled = gain(t) * wanted - pull * away / away.flatten(1).norm(dim=1).view(2, 1, 1, 1)
            gradient = 2 / image[0].numel() * (1 - slope) * (wanted - ddim_step(before, pulled, low, high))
            mean = first * mean + (1 - first) * gradient
            square = second * square + (1 - second) * gradient**2
            change = mean / (1 - first**count) / ((square / (1 - second**count)).sqrt() + 1e-8)
            wanted = (1 - rate * decay) * wanted - rate * change
        torch.testing.assert_close(step.latents, wanted, rtol=1e-10, atol=1e-10)
