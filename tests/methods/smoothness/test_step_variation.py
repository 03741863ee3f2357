"""The regulariser's four gradients against the definition by double backward, and against closed forms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from toys import tiny_model

from smoothtool.diffusion.lora import add_trainable_lora
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.methods.smoothness.step_variation import (
    Gradient,
    LossTerm,
    NoisyBatch,
    Predict,
    Regularisation,
    disagreement,
    loss_terms,
    variation,
    variation_gradient,
)

STEPS = {"central": 3e-3, "one-sided": 1e-3, "forward-variation": 3e-3, "double-backward": 3e-3}


def noisy_batch(model: DiffusionModel, timestep: int, size: int = 2, seed: int = 0) -> NoisyBatch:
    generator = torch.Generator().manual_seed(seed)
    latents, noise, probe = (torch.randn(size, 4, 16, 16, generator=generator) for _ in range(3))
    abar = torch.full((size,), model.schedule.alpha_prod(timestep))
    return NoisyBatch(latents, noise, probe, abar, torch.ones(size))


def predictor(model: DiffusionModel, timestep: int, size: int = 2) -> Callable[[torch.Tensor], torch.Tensor]:
    text = model.encode_prompts(["a cat", "red cake", "a dog on blue"][:size])
    return lambda latents: model.predict_noise(latents, timestep, text)


def one_level_unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        block_out_channels=(8,),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
        sample_size=16,
        down_block_types=("CrossAttnDownBlock2D",),
        mid_block_type=None,
        up_block_types=("UpBlock2D",),
    )


@pytest.fixture
def trained(model: DiffusionModel) -> list[torch.nn.Parameter]:
    return with_lora(model)


def with_lora(model: DiffusionModel) -> list[torch.nn.Parameter]:
    """A LoRA away from its start, so that both of its matrices have a gradient."""
    parameters = add_trainable_lora(model.unet, rank=2, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    for parameter in parameters:
        parameter.data += 0.2 * torch.randn_like(parameter)
    return parameters


def gradient_of(
    gradient: Gradient,
    predict: Callable[[torch.Tensor], torch.Tensor],
    batch: NoisyBatch,
    parameters: Sequence[torch.nn.Parameter],
    running_mean: torch.Tensor | None = None,
    weight: float = 1.0,
    relative_step: float | None = None,
) -> tuple[torch.Tensor, LossTerm]:
    settings = Regularisation(gradient, weight, relative_step or STEPS[gradient])
    with sdpa_kernel(SDPBackend.MATH):
        for term in loss_terms(predict, batch, running_mean, settings, parameters):
            term.loss.backward()
    return collect(parameters), term


def collect(parameters: Sequence[torch.nn.Parameter]) -> torch.Tensor:
    found = torch.cat([p.grad.flatten() for p in parameters])
    for p in parameters:
        p.grad = None
    return found


def witness(
    predict: Callable[[torch.Tensor], torch.Tensor],
    batch: NoisyBatch,
    parameters: Sequence[torch.nn.Parameter],
    running_mean: torch.Tensor,
    weight: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Equations 9 and 10 as written, left to autograd from end to end; written apart from the code under test."""
    noise = batch.noise.clone().requires_grad_(True)
    abar = batch.alphas_cumprod.view(-1, 1, 1, 1)
    latents = abar.sqrt() * batch.latents + (1 - abar).sqrt() * noise
    v = (1 - abar).sqrt() * batch.probe / (4 * 16 * 16) ** 0.5
    with sdpa_kernel(SDPBackend.MATH):
        noise_pred = predict(latents)
        x0_hat = (latents - (1 - abar).sqrt() * noise_pred) / abar.sqrt()
        (g,) = torch.autograd.grad((x0_hat * v).sum(), noise, create_graph=True)
        n = g.flatten(1).norm(dim=1)
        mean = running_mean + 0.01 * (n.mean() - running_mean)
        loss = (noise_pred - batch.noise).square().mean() + weight * (n - mean).square().mean()
        loss.backward()
    return collect(parameters), n.detach(), mean.detach()


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("timestep", [20, 500, 980])
@pytest.mark.parametrize(("gradient", "tolerance"), [("central", 1e-3), ("one-sided", 5e-3), ("double-backward", 1e-5)])
def test_the_regulariser_gradient_equals_double_backward(
    model: DiffusionModel, trained: list[torch.nn.Parameter], gradient: Gradient, tolerance: float, timestep: int
) -> None:
    batch, predict, mean = noisy_batch(model, timestep), predictor(model, timestep), torch.tensor(0.3)
    base, *_ = witness(predict, batch, trained, mean, weight=0.0)
    once, *_ = witness(predict, batch, trained, mean)
    weight = float(base.norm() / (once - base).norm())  # neither part may hide an error of the other
    expected, norms, after = witness(predict, batch, trained, mean, weight)
    found, term = gradient_of(gradient, predict, batch, trained, mean, weight)
    assert relative(found, expected) < tolerance
    assert torch.cosine_similarity(found - base, expected - base, dim=0) > 0.9999
    torch.testing.assert_close(term.variation.norms, norms, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(term.variation.running_mean, after)


def test_a_model_that_predicts_velocity_gets_the_same_gradient_as_by_double_backward(tmp_path: Path) -> None:
    model = tiny_model(tmp_path, prediction_type="v_prediction")
    parameters = with_lora(model)
    for timestep in (20, 980):
        batch, predict, mean = noisy_batch(model, timestep), predictor(model, timestep), torch.tensor(0.3)
        expected, norms, _ = witness(predict, batch, parameters, mean)
        found, term = gradient_of("central", predict, batch, parameters, mean, relative_step=1e-3)
        assert relative(found, expected) < 1e-3
        torch.testing.assert_close(term.variation.norms, norms, atol=1e-5, rtol=1e-4)


def test_weights_of_one_over_abar_turn_the_loss_in_eps_into_the_loss_in_velocity(model: DiffusionModel) -> None:
    batch, found = noisy_batch(model, 700), torch.randn(2, 4, 16, 16)
    weighted = replace(batch, loss_weights=1 / batch.alphas_cumprod)

    def velocity(noise: torch.Tensor) -> torch.Tensor:
        return (noise - batch.sigma * batch.noisy(batch.noise)) / batch.signal

    expected = (velocity(found) - velocity(batch.noise)).square().flatten(1).mean(dim=1)
    torch.testing.assert_close(weighted.base_loss(batch.noise, found), expected)


@pytest.mark.parametrize("gradient", ["central", "one-sided", "forward-variation"])
def test_gradient_checkpointing_computes_again_and_gives_the_same_gradient(
    model: DiffusionModel, trained: list[torch.nn.Parameter], gradient: Gradient
) -> None:
    batch, predict, calls = noisy_batch(model, 500), predictor(model, 500), []
    model.unet.down_blocks[1].resnets[0].register_forward_pre_hook(lambda *_: calls.append(1))
    expected, _ = gradient_of(gradient, predict, batch, trained, torch.tensor(0.3))
    plain = len(calls)
    model.unet.enable_gradient_checkpointing()
    found, _ = gradient_of(gradient, predict, batch, trained, torch.tensor(0.3))
    assert len(calls) - plain > plain
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_a_traced_unet_gives_the_same_gradient(model: DiffusionModel) -> None:
    """torch.compile's tracing and its graphs of derivatives; what a compiler makes of these is checked at run time."""
    model.unet = one_level_unet()  # tracing takes its time by the layer
    trained = with_lora(model)
    batch, text, times = noisy_batch(model, 500), model.encode_prompts(["a cat", "red cake"]), torch.tensor([500, 500])

    def through(unet: UNet2DConditionModel) -> Predict:
        return lambda latents: model.predict_noise_at(latents, times, text, unet)

    expected, _ = gradient_of("central", through(model.unet), batch, trained, torch.tensor(0.3))
    found, _ = gradient_of(
        "central", through(torch.compile(model.unet, backend="aot_eager")), batch, trained, torch.tensor(0.3)
    )
    assert relative(found, expected) < 1e-3


@pytest.mark.parametrize("gradient", ["central", "one-sided"])
def test_gradients_accumulate_with_the_running_mean_carried_on(
    model: DiffusionModel, trained: list[torch.nn.Parameter], gradient: Gradient
) -> None:
    mean, expected_mean = torch.tensor(0.5), torch.tensor(0.5)
    found, expected = 0.0, 0.0
    for seed, timestep in enumerate((100, 600)):
        batch, predict = noisy_batch(model, timestep, seed=seed), predictor(model, timestep)
        part, _, expected_mean = witness(predict, batch, trained, expected_mean)
        expected = expected + part
        part, term = gradient_of(gradient, predict, batch, trained, mean)
        found, mean = found + part, term.variation.running_mean
    assert relative(found, expected) < 5e-3
    torch.testing.assert_close(mean, expected_mean)


@pytest.mark.parametrize("gradient", ["central", "forward-variation"])
def test_the_base_loss_of_a_pair_is_the_plain_one_to_first_order(
    model: DiffusionModel, trained: list[torch.nn.Parameter], gradient: Gradient
) -> None:
    batch, predict = noisy_batch(model, 500), predictor(model, 500)
    plain = batch.base_loss(batch.noise, predict(batch.noisy(batch.noise)))
    settings = Regularisation(gradient, 1.0, 1e-2)
    base = sum(term.base_loss for term in loss_terms(predict, batch, None, settings))
    torch.testing.assert_close(base, plain, rtol=2e-2, atol=0)


@pytest.mark.parametrize("gradient", STEPS)
@pytest.mark.parametrize("timestep", [20, 500, 980])
def test_the_variation_of_gaussian_data_has_its_closed_form(
    model: DiffusionModel, gradient: Gradient, timestep: int
) -> None:
    data_deviation = 0.7
    batch = noisy_batch(model, timestep)
    abar = model.schedule.alpha_prod(timestep)
    slope = (1 - abar) ** 0.5 / (abar * data_deviation**2 + 1 - abar)
    terms = loss_terms(lambda latents: slope * latents, batch, None, Regularisation(gradient, 1.0, 0.01))
    expected = abar**0.5 * data_deviation**2 * (1 - abar) ** 0.5 / (abar * data_deviation**2 + 1 - abar)
    norms = next(terms).variation.norms
    torch.testing.assert_close(norms, expected * batch.direction.flatten(1).norm(dim=1), rtol=2e-4, atol=0)


@pytest.mark.slow
def test_forward_variation_points_the_same_way_as_the_definition_on_average(
    model: DiffusionModel, trained: list[torch.nn.Parameter]
) -> None:
    predict, total = predictor(model, 500), {"forward-variation": 0.0, "double-backward": 0.0}
    for seed in range(12):
        batch = noisy_batch(model, 500, seed=seed)
        for gradient in total:
            settings = Regularisation(gradient, 1.0, 3e-3)
            with sdpa_kernel(SDPBackend.MATH):
                for term in loss_terms(predict, batch, torch.tensor(0.0), settings):
                    (term.loss - term.base_loss.mean()).backward()
            total[gradient] = total[gradient] + collect(trained)
    assert torch.cosine_similarity(*total.values(), dim=0) > 0.95


def test_the_weights_are_the_derivative_of_the_regulariser() -> None:
    norms = torch.rand(5, dtype=torch.float64, requires_grad=True)
    before = torch.tensor(0.4, dtype=torch.float64)
    after = before + 0.01 * (norms.mean() - before)
    (norms - after).square().mean().backward()
    found = variation(norms, before)
    torch.testing.assert_close(found.weights, norms.grad)
    torch.testing.assert_close(found.running_mean, after.detach())


def test_the_first_batch_starts_the_running_mean_and_zero_reproduces_the_reference() -> None:
    norms = torch.tensor([1.0, 3.0])
    assert float(variation(norms, None).running_mean) == 2.0
    assert float(variation(norms, torch.tensor(0.0)).running_mean) == pytest.approx(0.02)


def test_lambda_zero_is_plain_training(model: DiffusionModel, trained: list[torch.nn.Parameter]) -> None:
    batch, predict = noisy_batch(model, 500), predictor(model, 500)
    expected, *_ = witness(predict, batch, trained, torch.tensor(0.0), weight=0.0)
    found, term = gradient_of("central", predict, batch, trained, weight=0.0)
    torch.testing.assert_close(found, expected)
    assert term.variation is None


@pytest.mark.parametrize("gradient", ["central", "one-sided"])
def test_the_variation_gradient_is_the_double_backwards_and_is_left_nowhere(
    model: DiffusionModel, trained: list[torch.nn.Parameter], gradient: Gradient
) -> None:
    batch, predict = noisy_batch(model, 500, size=1), predictor(model, 500, size=1)
    with sdpa_kernel(SDPBackend.MATH):
        expected = variation_gradient(predict, batch, Regularisation("double-backward"), trained)
    found = variation_gradient(predict, batch, Regularisation(gradient, relative_step=3e-4), trained)
    assert relative(found, expected) < 5e-3
    assert all(p.grad is None and p.requires_grad for p in trained)


@pytest.mark.parametrize(("width", "agrees"), [(100.0, True), (0.02, False)])
def test_two_lengths_disagree_where_the_difference_is_longer_than_the_models_waves(width: int, agrees: bool) -> None:
    """eps = theta sin(z / width); r = 0.1 moves every entry of z by about 0.1. The witness is the double backward."""
    torch.manual_seed(0)
    theta = torch.nn.Parameter(torch.ones(1, 4, 16, 16, dtype=torch.float64) + 0.1 * torch.rand(1, 4, 16, 16))
    latents, noise, probe = torch.randn(3, 1, 4, 16, 16, dtype=torch.float64)
    batch = NoisyBatch(latents, noise, probe, torch.tensor([0.5]).double(), torch.ones(1).double())

    def predict(z: torch.Tensor) -> torch.Tensor:
        return theta * torch.sin(z / width)

    settings = Regularisation("central", relative_step=0.1)
    error = relative(
        *(
            variation_gradient(predict, batch, replace(settings, gradient=kind), [theta])
            for kind in ("central", "double-backward")
        )
    )
    found = float(disagreement(predict, batch, settings, [theta]))
    assert (error < 0.01, found < 0.03) == (agrees, agrees)
    assert (error > 0.5, found > 0.5) == (not agrees, not agrees)


@pytest.mark.parametrize("gradient", STEPS)
def test_a_sample_whose_difference_is_not_resolved_trains_without_the_regulariser(
    model: DiffusionModel, trained: list[torch.nn.Parameter], gradient: Gradient
) -> None:
    batch, predict, mean = noisy_batch(model, 500), predictor(model, 500), torch.tensor(0.3)

    def with_resolved(*resolved: float) -> torch.Tensor:
        part = replace(batch, resolved=torch.tensor(resolved))
        return gradient_of(gradient, predict, part, trained, mean, 10.0)[0]

    whole, *_ = gradient_of(gradient, predict, batch, trained, mean, 10.0)
    assert relative(with_resolved(1, 1), whole) < 1e-3
    none, first, second = with_resolved(0, 0), with_resolved(1, 0), with_resolved(0, 1)
    assert relative(first + second - none, whole) < 1e-2  # each sample has its own share of the regulariser
    assert relative(first, none) > 0.1
    assert relative(second, none) > 0.1
    plain, *_ = witness(predict, batch, trained, mean, weight=0.0)
    assert relative(none, plain) < 1e-2


def test_parameters_are_trainable_again_after_an_error(
    model: DiffusionModel, trained: list[torch.nn.Parameter]
) -> None:
    def fails(latents: torch.Tensor) -> NoReturn:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        next(loss_terms(fails, noisy_batch(model, 500), None, Regularisation(), trained))
    assert all(p.requires_grad for p in trained)
