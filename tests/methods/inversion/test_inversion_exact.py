"""EDICT and O-BELM give latents back; fixed-point inversion approaches that round by round."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import constant, denoise
from smoothtool.methods.inversion import edict
from smoothtool.methods.inversion.belm import belm_inversion_steps, belm_steps
from smoothtool.methods.inversion.ddim import ddim_inversion_steps
from smoothtool.methods.inversion.edict import edict_inversion_steps, edict_steps
from smoothtool.methods.inversion.fixed_point import fixed_point_steps
from smoothtool.methods.inversion.negative_prompt import negative_prompt_embeds
from smoothtool.types import Conditioning

N = 12


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def text(model: DiffusionModel) -> Conditioning:
    return model.encode_prompts(["a cat", "a red fox"])


def curved_noise(latents: torch.Tensor, timestep: int | torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
    """A smooth nonlinear denoiser in the dtype of its input."""
    level = timestep / 1000
    return torch.tanh(latents * (0.5 + level)) + 0.3 * torch.sin(3 * latents + level)


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


def edict_round_trip(model: DiffusionModel, latents: torch.Tensor, text: Conditioning) -> torch.Tensor:
    *_, noise = edict_inversion_steps(model, latents, text, N)
    *_, image = edict_steps(model, noise.latents, noise.coupled, constant(text), constant(text), N, 1.0)
    return image.latents


def belm_round_trip(model: DiffusionModel, latents: torch.Tensor, text: Conditioning) -> torch.Tensor:
    *_, last_but_one, noise = belm_inversion_steps(model, latents, text, N)
    *_, image = belm_steps(model, noise.latents, last_but_one.latents, constant(text), constant(text), N, 1.0)
    return image.latents


@pytest.mark.parametrize("round_trip", [edict_round_trip, belm_round_trip])
def test_exact_inversions_give_latents_back_in_float64(
    model: DiffusionModel, latents: torch.Tensor, text: Conditioning, round_trip: Callable[..., torch.Tensor]
) -> None:
    model.predict_noise = curved_noise
    assert relative(round_trip(model, latents, text), latents) < 1e-9


@pytest.mark.parametrize("round_trip", [edict_round_trip, belm_round_trip])
def test_exact_inversions_give_latents_back_through_a_float32_unet(
    model: DiffusionModel, latents: torch.Tensor, text: Conditioning, round_trip: Callable[..., torch.Tensor]
) -> None:
    assert relative(round_trip(model, latents, text), latents) < 1e-4


def test_edict_moves_its_two_latents_in_turn_first_by_the_other(
    model: DiffusionModel, latents: torch.Tensor, text: Conditioning
) -> None:
    """Two sampling steps written out: x before y in step 0, y before x in step 1; x mixes before y in both."""
    model.predict_noise = curved_noise
    (t0, high, middle), (t1, _, low) = model.schedule.alpha_pairs(2)
    x, y = latents.double(), 0.9 * latents.double()

    def moved(one: torch.Tensor, other: torch.Tensor, t: int, alpha_from: float, alpha_to: float) -> torch.Tensor:
        eps = curved_noise(other, t, text)
        return alpha_to**0.5 * (one - (1 - alpha_from) ** 0.5 * eps) / alpha_from**0.5 + (1 - alpha_to) ** 0.5 * eps

    steps = list(edict_steps(model, x, y, constant(text), constant(text), 2, 1.0))
    x = moved(x, y, t0, high, middle)
    y = moved(y, x, t0, high, middle)
    x = 0.93 * x + 0.07 * y
    y = 0.93 * y + 0.07 * x
    torch.testing.assert_close((steps[0].latents, steps[0].coupled), (x, y), rtol=1e-12, atol=1e-12)
    y = moved(y, x, t1, middle, low)
    x = moved(x, y, t1, middle, low)
    x = 0.93 * x + 0.07 * y
    y = 0.93 * y + 0.07 * x
    torch.testing.assert_close((steps[1].latents, steps[1].coupled), (x, y), rtol=1e-12, atol=1e-12)


def test_edicts_two_latents_part_less_when_they_take_turns(
    model: DiffusionModel, latents: torch.Tensor, text: Conditioning, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Gaussian data of deviation 0.5, whose denoiser is known: 0.25 % apart instead of 3.1 %."""

    def noise_of_gaussian_data(latents: torch.Tensor, timestep: int, conditioning: Conditioning) -> torch.Tensor:
        abar = model.schedule.alpha_prod(timestep)
        return (1 - abar) ** 0.5 / (0.25 * abar + 1 - abar) * latents

    def parted() -> float:
        *_, noise = edict_inversion_steps(model, 0.5 * latents.double(), text, 50)
        return relative(noise.coupled, noise.latents)

    model.predict_noise = noise_of_gaussian_data
    taking_turns = parted()
    monkeypatch.setattr(edict, "_in_turn", lambda x, y, step_index: (x, y))
    assert taking_turns < 0.005 < 0.02 < parted()


def test_plain_ddim_is_not_exact_where_edict_and_belm_are(
    model: DiffusionModel, latents: torch.Tensor, text: Conditioning
) -> None:
    model.predict_noise = curved_noise
    *_, noise = ddim_inversion_steps(model, latents, text, N)
    *_, image = denoise(model, noise.latents, constant(text), constant(text), N, 1.0)
    assert relative(image.latents, latents) > 1e-3


@pytest.mark.parametrize(
    "invert", [ddim_inversion_steps, fixed_point_steps, edict_inversion_steps, belm_inversion_steps]
)
def test_every_inversion_is_ddims_own_line_when_noise_is_constant(
    model: DiffusionModel, latents: torch.Tensor, text: Conditioning, invert: Callable[..., Iterator[Any]]
) -> None:
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(4))
    model.predict_noise = lambda *_: noise
    *_, last = invert(model, latents, text, N)
    pairs = model.schedule.alpha_pairs(N)
    scaled = latents / pairs[-1][2] ** 0.5 + noise * sum(
        (1 - high) ** 0.5 / high**0.5 - (1 - low) ** 0.5 / low**0.5 for _, high, low in pairs
    )
    torch.testing.assert_close(last.latents.float(), scaled * pairs[0][1] ** 0.5, atol=1e-4, rtol=1e-4)


def test_belm_costs_one_unet_call_a_step_and_edict_two(
    model: DiffusionModel, latents: torch.Tensor, text: Conditioning
) -> None:
    list(belm_inversion_steps(model, latents, text, N))
    belm_calls = model.counter.calls
    list(edict_inversion_steps(model, latents, text, N))
    assert (belm_calls, model.counter.calls - belm_calls) == (N, 2 * N)


def test_inversion_steps_are_those_of_the_sampler_in_reverse(
    model: DiffusionModel, latents: torch.Tensor, text: Conditioning
) -> None:
    for invert in (fixed_point_steps, edict_inversion_steps, belm_inversion_steps):
        steps = list(invert(model, latents, text, N))
        assert [step.step_index for step in steps] == list(range(N))[::-1]
        assert tuple(step.timestep for step in reversed(steps)) == model.schedule.timesteps(N)


def test_fixed_point_residual_falls_with_rounds(
    model: DiffusionModel, latents: torch.Tensor, text: Conditioning
) -> None:
    model.predict_noise = curved_noise
    worst = [
        max(max(s.last_residuals) for s in fixed_point_steps(model, latents, text, N, rounds)) for rounds in (1, 3, 5)
    ]
    assert worst[0] > 2 * worst[1] > 4 * worst[2]


def test_fixed_point_reconstruction_error_falls_with_rounds(
    model: DiffusionModel, latents: torch.Tensor, text: Conditioning
) -> None:
    def error(rounds: int) -> float:
        *_, noise = fixed_point_steps(model, latents, text, N, rounds)
        *_, image = denoise(model, noise.latents, constant(text), constant(text), N, 1.0)
        return relative(image.latents, latents)

    model.predict_noise = curved_noise
    assert error(0) > 3 * error(2) > 9 * error(4)


def test_fixed_point_without_rounds_is_plain_ddim_inversion(
    model: DiffusionModel, latents: torch.Tensor, text: Conditioning
) -> None:
    *_, plain = ddim_inversion_steps(model, latents, text, N)
    *_, fixed = fixed_point_steps(model, latents, text, N, rounds=0)
    assert torch.equal(plain.latents, fixed.latents)


def test_negative_prompt_embeds_are_the_source_text_at_every_step(text: Conditioning) -> None:
    embeds = negative_prompt_embeds(text, N)
    assert embeds.shape == (N, *text.prompt_embeds.shape)
    assert all(torch.equal(step, text.prompt_embeds) for step in embeds)
