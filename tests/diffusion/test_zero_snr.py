"""Schedules that end in pure noise: velocity models go through it without a division by zero, others are refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from toys import SD_SCHEDULE, tiny_model

from smoothtool.diffusion.ddim import (
    Schedule,
    ddim_step,
    latents_coefficient,
    noise_coefficient,
    noise_from_velocity,
    pred_original_sample,
)
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import constant, denoise
from smoothtool.errors import ModelError, UsageError
from smoothtool.methods.drag.identity_lora import prediction_loss
from smoothtool.methods.editing.cycle import cycle_steps
from smoothtool.methods.editing.pix2pix_zero import regularised_inversion_steps
from smoothtool.methods.inversion.belm import belm_inversion_steps
from smoothtool.methods.inversion.ddim import ddim_inversion_steps, trajectory_of
from smoothtool.methods.inversion.edict import edict_inversion_steps, edict_steps
from smoothtool.methods.inversion.fixed_point import fixed_point_steps
from smoothtool.methods.inversion.null_text import Solver, adam_solver, gauss_newton_solver, null_text_steps
from smoothtool.methods.smoothness.step_variation import Gradient, NoisyBatch, Regularisation, loss_terms

ZERO = {
    **SD_SCHEDULE,
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
    "prediction_type": "v_prediction",
}
CLASSES = [
    "DDIMScheduler",
    "DDPMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "LCMScheduler",
    "TCDScheduler",
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "NoSuchScheduler",
]
N = 6


def zero_model(folder: Path, **changes: Any) -> DiffusionModel:
    model = tiny_model(folder)
    model.schedule = Schedule.from_config({**ZERO, **changes})
    return model


@pytest.fixture
def zero(tmp_path: Path) -> DiffusionModel:
    return zero_model(tmp_path)


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))


def test_the_rescaled_schedule_equals_diffusers() -> None:
    ours, theirs = Schedule.from_config(ZERO), DDIMScheduler.from_config(ZERO)
    assert ours.alphas_cumprod[-1] == 0
    assert ours.alphas_cumprod[0] == pytest.approx(1 - SD_SCHEDULE["beta_start"], abs=1e-12)
    torch.testing.assert_close(torch.tensor(ours.alphas_cumprod), theirs.alphas_cumprod, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("final", [True, False])
def test_sampling_equals_diffusers_from_pure_noise_on(latents: torch.Tensor, final: bool) -> None:
    config = {**ZERO, "set_alpha_to_one": final}
    schedule, scheduler = Schedule.from_config(config), DDIMScheduler.from_config(config)
    scheduler.set_timesteps(N)
    assert schedule.timesteps(N) == tuple(scheduler.timesteps.tolist())
    ours = theirs = latents
    for step, (t, alpha_from, alpha_to) in enumerate(schedule.alpha_pairs(N)):
        velocity = torch.randn(latents.shape, generator=torch.Generator().manual_seed(step))
        ours = ddim_step(ours, noise_from_velocity(ours, velocity, alpha_from), alpha_from, alpha_to)
        theirs = scheduler.step(velocity, t, theirs).prev_sample
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("spacing", ["trailing", "linspace", "leading", None])
@pytest.mark.parametrize("steps", [1, 3, 8, 50, 999])
def test_every_scheduler_class_and_spacing_gives_falling_times_and_signal(
    name: str, spacing: str | None, steps: int
) -> None:
    pairs = Schedule.from_config({**ZERO, "_class_name": name, "timestep_spacing": spacing}).alpha_pairs(steps)
    assert all(before[0] > after[0] for before, after in pairwise(pairs))
    assert all(alpha_from <= alpha_to for _, alpha_from, alpha_to in pairs)
    if spacing == "trailing" or (spacing == "linspace" and steps > 1):
        assert pairs[0][:2] == (999, 0)


def test_betas_that_end_at_one_mean_the_same(latents: torch.Tensor) -> None:
    betas = [0.01] * 99 + [1.0]
    config = {"num_train_timesteps": 100, "trained_betas": betas, "timestep_spacing": "trailing"}
    assert Schedule.from_config({**config, "prediction_type": "v_prediction"}).alpha_pairs(5)[0][1] == 0
    with pytest.raises(ModelError, match="zero terminal SNR"):
        Schedule.from_config(config)


def test_the_picture_at_pure_noise_is_minus_the_velocity(zero: DiffusionModel, latents: torch.Tensor) -> None:
    text = zero.encode_prompts(["a cat"])
    with torch.no_grad():
        raw = zero.unet(latents, 999, encoder_hidden_states=text.prompt_embeds, return_dict=False)[0]
        predicted = zero.predict_noise(latents, 999, text)
        rows = zero.predict_noise(latents.expand(2, -1, -1, -1), torch.tensor([999, 300]), text.expand(2))
    torch.testing.assert_close(pred_original_sample(latents, predicted, 0.0), -raw)
    torch.testing.assert_close(rows[:1], raw, rtol=1e-4, atol=1e-5)


def test_a_model_that_predicts_noise_is_refused_by_its_name() -> None:
    with pytest.raises(ModelError, match=r"scheduler_config\.json: .*zero terminal SNR"):
        Schedule.from_config({**ZERO, "prediction_type": "epsilon"}, "scheduler_config.json")


def test_a_step_to_pure_noise_and_back_changes_nothing(latents: torch.Tensor) -> None:
    z, v = latents.double(), latents.double().flip(-1)
    torch.testing.assert_close(ddim_step(ddim_step(z, v, 0.3, 0.0), v, 0.0, 0.3), z, rtol=1e-12, atol=1e-12)


def test_the_coefficients_at_pure_noise_are_the_steps_derivatives(latents: torch.Tensor) -> None:
    z, v = latents.double(), latents.double().flip(-1)
    moved = ddim_step(z, v, 0.0, 0.3)
    torch.testing.assert_close(ddim_step(z, v + 1, 0.0, 0.3) - moved, torch.full_like(z, noise_coefficient(0.0, 0.3)))
    torch.testing.assert_close(ddim_step(z + 1, v, 0.0, 0.3) - moved, torch.full_like(z, latents_coefficient(0.0, 0.3)))


@torch.no_grad()
@pytest.mark.parametrize("spacing", ["trailing", "linspace", "leading"])
def test_a_constant_velocity_is_inverted_and_sampled_exactly(
    tmp_path: Path, latents: torch.Tensor, spacing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one prediction whatever the latents, inversion is exact; the same must hold through pure noise."""
    model = zero_model(tmp_path, timestep_spacing=spacing)
    fixed = torch.randn(latents.shape, generator=torch.Generator().manual_seed(7))
    monkeypatch.setattr(model, "_predict", lambda z, t, text: fixed.to(z).expand(len(z), -1, -1, -1))
    text = model.encode_prompts([""])
    path = trajectory_of(latents, list(ddim_inversion_steps(model, latents, text, N)))
    *_, back = denoise(model, path.noise, constant(text), constant(text), N, 1.0)
    torch.testing.assert_close(back.latents, latents, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_edict_is_exact_through_pure_noise(zero: DiffusionModel, latents: torch.Tensor) -> None:
    text = zero.encode_prompts(["a cat"])
    zero.unet.double()
    *_, noise = edict_inversion_steps(zero, latents, text, N)
    *_, image = edict_steps(zero, noise.latents, noise.coupled, constant(text), constant(text), N, 1.0)
    assert float((image.latents - latents.double()).norm() / latents.norm()) < 1e-7


@torch.no_grad()
def test_fixed_point_inversion_solves_the_step_to_pure_noise(zero: DiffusionModel, latents: torch.Tensor) -> None:
    text = zero.encode_prompts(["a cat"])
    errors = []
    for rounds in (0, 10):
        *_, last = fixed_point_steps(zero, latents, text, N, rounds)
        *_, back = denoise(zero, last.latents, constant(text), constant(text), N, 1.0)
        errors.append(float((back.latents - latents).norm() / latents.norm()))
    assert errors[1] < 0.2 * errors[0]


@pytest.mark.parametrize("solver", [adam_solver(5), gauss_newton_solver()])
def test_null_text_brings_the_first_step_nearer_to_its_pivot(
    zero: DiffusionModel, latents: torch.Tensor, solver: Solver
) -> None:
    text, null = zero.encode_prompts(["a cat"]), zero.encode_prompts([""])
    path = trajectory_of(latents, list(ddim_inversion_steps(zero, latents, text, N)))
    steps = list(null_text_steps(zero, path, text, null, 7.5, solver))
    assert steps[0].losses[-1] <= steps[0].losses[0]
    assert all(bool(torch.isfinite(step.latents).all()) for step in steps)


def test_belm_is_refused_with_another_inversion_in_its_place(zero: DiffusionModel, latents: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="zero terminal SNR") as refused:
        list(belm_inversion_steps(zero, latents, zero.encode_prompts([""]), N))
    assert "edict" in refused.value.hint


def test_cycle_gives_the_picture_back_for_equal_prompts(zero: DiffusionModel, latents: torch.Tensor) -> None:
    text, null = zero.encode_prompts(["a cat"]), zero.encode_prompts([""])
    generator = torch.Generator().manual_seed(0)
    *_, last = cycle_steps(zero, latents, text, text, null, N, 1.0, [generator], strength=1.0)
    torch.testing.assert_close(last.latents, latents, rtol=1e-3, atol=1e-3)


def test_regularised_inversion_ends_on_finite_noise(zero: DiffusionModel, latents: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    *_, last = regularised_inversion_steps(zero, latents, zero.encode_prompts(["a cat"]), N, generator)
    assert bool(torch.isfinite(last.latents).all())


def test_the_identity_loss_at_pure_noise_is_the_velocitys(zero: DiffusionModel, latents: torch.Tensor) -> None:
    text, noise = zero.encode_prompts([""]), torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    loss = prediction_loss(zero, latents, noise, text, torch.tensor([999]))
    with torch.no_grad():
        velocity = zero.unet(noise, 999, encoder_hidden_states=text.prompt_embeds, return_dict=False)[0]
    torch.testing.assert_close(loss.detach(), (velocity + latents).square().mean())


@pytest.mark.parametrize("gradient", ["central", "one-sided", "forward-variation", "double-backward"])
def test_the_regularisers_gradient_at_pure_noise_is_that_of_the_definition(gradient: Gradient) -> None:
    """x0_hat = -v there, n = ||J^T direction|| with J = dv/deps; a smooth stand-in for the UNet, in float64."""
    torch.manual_seed(0)
    weight = torch.randn(6, 6, dtype=torch.float64, requires_grad=True)
    shape = (1, 1, 2, 3)
    batch = NoisyBatch(*(torch.randn(shape, dtype=torch.float64) for _ in range(3)), torch.zeros(1), torch.ones(1))

    def predict(z: torch.Tensor) -> torch.Tensor:
        return torch.tanh(z.flatten(1) @ weight).view(z.shape)

    settings = Regularisation(gradient, 1.0, 1e-5)
    terms = []
    for term in loss_terms(predict, batch, torch.tensor(0.5, dtype=torch.float64), settings, [weight]):
        terms.append(torch.autograd.grad(term.loss, weight, retain_graph=True)[0])
        assert bool(torch.isfinite(term.base_loss).all())
    found = sum(terms)
    if gradient == "forward-variation":  # another estimator: only that it is finite
        assert bool(torch.isfinite(found).all())
        return
    noise = batch.noise.clone().requires_grad_(True)
    along = -(predict(noise) * batch.direction).sum()
    (pulled,) = torch.autograd.grad(along, noise, create_graph=True)
    norm = pulled.norm()
    mean = 0.5 + 0.01 * (norm.detach() - 0.5)
    slope = 2 * ((norm.detach() - mean) - 0.01 * (norm.detach() - mean))
    expected = torch.autograd.grad((predict(batch.noise) + batch.latents).square().mean() + slope * norm, weight)[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
