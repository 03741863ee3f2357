"""Null-text inversion: equal to a plain transcription, batched, economical, and honest about its losses."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from reference_null_text import reference_null_text
from toys import tiny_model

from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import constant, denoise, per_step
from smoothtool.methods.inversion.ddim import ddim_inversion_steps, trajectory_of
from smoothtool.methods.inversion.null_text import (
    InnerProblem,
    NullTextStep,
    Solver,
    adam_rate,
    adam_solver,
    gauss_newton_solver,
    null_text_steps,
)
from smoothtool.types import Conditioning, LatentTrajectory

STEPS, GUIDANCE = 4, 3.0


@pytest.fixture
def exact(tmp_path: Path) -> DiffusionModel:
    """The tiny model in float64, where rounding hides nothing."""
    model = tiny_model(tmp_path)
    model.unet.double()
    return model


def pivots(
    model: DiffusionModel, pictures: int, dtype: torch.dtype
) -> tuple[LatentTrajectory, Conditioning, Conditioning]:
    noise = torch.randn(pictures, 4, 16, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    text, null = model.encode_prompts(["a cat", "a dog"][:pictures]), model.encode_prompts([""])
    text, null = text.map(lambda part: part.to(dtype)), null.map(lambda part: part.to(dtype))
    return trajectory_of(noise, list(ddim_inversion_steps(model, noise, text, STEPS))), text, null


def fit(model: DiffusionModel, pictures: int, solver: Solver, dtype: torch.dtype = torch.float32) -> list[NullTextStep]:
    trajectory, text, null = pivots(model, pictures, dtype)
    return list(null_text_steps(model, trajectory, text, null, GUIDANCE, solver))


@pytest.mark.parametrize("pictures", [1, 2])
def test_adam_equals_the_reference_order_of_work(exact: DiffusionModel, pictures: int) -> None:
    trajectory, text, null = pivots(exact, pictures, torch.float64)
    ours = list(null_text_steps(exact, trajectory, text, null, GUIDANCE, adam_solver(3)))
    theirs = reference_null_text(exact, trajectory, text, null, GUIDANCE, inner_steps=3)
    for step, (embeds, losses) in zip(ours, theirs, strict=True):
        torch.testing.assert_close(step.null_embeds, embeds, rtol=1e-9, atol=1e-9)
        assert step.losses[:-1] == pytest.approx(losses, rel=1e-9)


def test_adams_rate_falls_by_a_hundredth_a_step_and_never_reaches_zero() -> None:
    for count in (1, 20, 50):
        assert [adam_rate(i, count) for i in range(count)] == pytest.approx([0.01 - 0.0001 * i for i in range(count)])
    assert adam_rate(199, 200) == pytest.approx(0.01 * (1 - 199 / 400))


@pytest.mark.parametrize(("index", "count"), [(0, 20), (19, 20), (30, 50), (60, 120)])
def test_the_first_update_of_adam_is_as_long_as_its_rate(index: int, count: int) -> None:
    """Adam's first step is the rate times the sign of the gradient."""

    def noise_of(null: torch.Tensor) -> torch.Tensor:
        return null.mean(dim=(1, 2)).view(1, 1, 1, 1).expand(1, 4, 4, 4)

    problem = InnerProblem(noise_of, torch.full((1, 4, 4, 4), -1.0), 1.0, 0.0)
    null, _, _ = adam_solver(1)(problem, torch.zeros(1, 2, 3), index, count)
    expected = 0.01 * (1 - index / 100 if count <= 50 else 1 - index / (2 * count))
    torch.testing.assert_close(null, torch.full((1, 2, 3), expected), rtol=1e-5, atol=0)


def test_adam_keeps_its_gradient_where_the_unet_runs_in_float16() -> None:
    """At SD's 16,384 latents the gradient of a mean is under what float16 can hold."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(16_384, 8, generator=generator)
    offset = 0.01 * torch.randn(1, 4, 64, 64, generator=generator)

    def fitted(dtype: torch.dtype) -> torch.Tensor:
        def noise_of(null: torch.Tensor) -> torch.Tensor:
            return (weights.to(dtype) * null.to(dtype).flatten()).sum(dim=1).float().reshape(1, 4, 64, 64)

        return adam_solver(1)(InnerProblem(noise_of, offset, 0.01, 0.0), torch.zeros(1, 1, 8), 0, 50)[0]

    torch.testing.assert_close(fitted(torch.float16), fitted(torch.float32), rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("solver", [adam_solver(3), gauss_newton_solver(anchor_weight=0.01)])
def test_with_a_null_embedding_each_pictures_fit_as_they_would_alone(exact: DiffusionModel, solver: Solver) -> None:
    trajectory, text, null = pivots(exact, 2, torch.float64)
    together = list(null_text_steps(exact, trajectory, text, null[[0, 0]], GUIDANCE, solver))
    for row in range(2):
        own = LatentTrajectory(trajectory.latents[:, [row]], trajectory.timesteps)
        for both, alone in zip(together, null_text_steps(exact, own, text[[row]], null, GUIDANCE, solver), strict=True):
            torch.testing.assert_close(both.null_embeds[[row]], alone.null_embeds, rtol=1e-7, atol=1e-9)
            torch.testing.assert_close(both.latents[[row]], alone.latents, rtol=1e-7, atol=1e-9)
            assert both.last_losses[row] == pytest.approx(alone.losses[-1], rel=1e-7)


@pytest.mark.parametrize("solver", [adam_solver(3), gauss_newton_solver()])
def test_a_picture_that_has_arrived_stays_while_another_goes_on(solver: Solver) -> None:
    """Two problems with the residual mean(null) + offset: one is solved from the start."""

    def noise_of(null: torch.Tensor) -> torch.Tensor:
        return null.mean(dim=(1, 2)).view(2, 1, 1, 1).expand(2, 4, 4, 4)

    offset = torch.tensor([-1.0, 0.0]).view(2, 1, 1, 1).expand(2, 4, 4, 4)
    null, _, losses = solver(InnerProblem(noise_of, offset, 1.0, 1e-5, shared=False), torch.ones(2, 2, 3), 0, 50)
    assert torch.equal(null[0], torch.ones(2, 3))
    assert losses[-1][1] < losses[0][1]


def test_gauss_newton_never_lets_the_loss_grow_within_a_step(model: DiffusionModel) -> None:
    for step in fit(model, 2, gauss_newton_solver()):
        assert step.losses[-1] <= step.losses[0]


def test_gauss_newton_ends_lower_than_three_steps_of_adam(model: DiffusionModel) -> None:
    ours, adam = (fit(model, 2, solver)[0].losses[-1] for solver in (gauss_newton_solver(2), adam_solver(3)))
    assert ours < adam


def test_gauss_newton_solves_a_linear_problem_in_as_many_iterations_as_it_has_dimensions() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(64, 6, dtype=torch.float64, generator=generator)
    offset = torch.randn(1, 4, 4, 4, dtype=torch.float64, generator=generator)
    problem = InnerProblem(lambda null: (matrix @ null.flatten()).reshape(1, 4, 4, 4), offset, slope=0.5, threshold=0.0)
    solver = gauss_newton_solver(iterations=6, trust_rms=1e9)
    null, _, losses = solver(problem, torch.ones(1, 2, 3, dtype=torch.float64), 0, 50)
    best = torch.linalg.lstsq(0.5 * matrix, -offset.flatten()[:, None]).solution
    torch.testing.assert_close(null.flatten(), best.flatten(), rtol=1e-6, atol=1e-6)
    assert losses[-1] < losses[0]


def test_an_update_that_overshoots_is_halved_and_only_then_refused() -> None:
    """Newton's step for arctan overshoots where |x| > 1.39; from 2, half of it lands nearer and from 40 an eighth
    does not.
    """

    def noise_of(null: torch.Tensor) -> torch.Tensor:
        return null.mean(dim=(1, 2)).atan().view(2, 1, 1, 1).expand(2, 4, 4, 4)

    problem = InnerProblem(noise_of, torch.zeros(2, 4, 4, 4, dtype=torch.float64), 1.0, 1e-9, shared=False)
    start = torch.tensor([2.0, 40.0], dtype=torch.float64).view(2, 1, 1).expand(2, 2, 3)
    null, noise, losses = gauss_newton_solver(iterations=1, trust_rms=1e9)(problem, start, 0, 50)
    newton = 2.0 - math.atan(2.0) * (1 + 2.0**2) / 2
    torch.testing.assert_close(null[0], torch.full_like(null[0], newton), rtol=0.1, atol=0)  # J p by a finite step
    assert losses[-1][0] < losses[0][0]
    assert torch.equal(null[1], start[1])
    torch.testing.assert_close(noise, noise_of(null))


def test_an_anchored_linear_problem_is_solved_like_ridge_regression() -> None:
    """mean r^2 + mu mean (null - anchor)^2 is the mean of squares of a longer residual."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(64, 6, dtype=torch.float64, generator=generator)
    offset = torch.randn(1, 4, 4, 4, dtype=torch.float64, generator=generator)
    anchor = torch.randn(1, 2, 3, dtype=torch.float64, generator=generator)
    mu = 0.3
    problem = InnerProblem(lambda null: (matrix @ null.flatten()).reshape(1, 4, 4, 4), offset, 0.5, 0.0, anchor=anchor)
    solver = gauss_newton_solver(iterations=6, trust_rms=1e9, anchor_weight=mu)
    null, _, _ = solver(problem, torch.ones(1, 2, 3, dtype=torch.float64), 0, 50)
    ridge = (mu * 64 / 6) ** 0.5
    rows = torch.cat([0.5 * matrix, ridge * torch.eye(6, dtype=torch.float64)])
    wanted = torch.cat([-offset.flatten(), ridge * anchor.flatten()])
    best = torch.linalg.lstsq(rows, wanted[:, None]).solution
    torch.testing.assert_close(null.flatten(), best.flatten(), rtol=1e-6, atol=1e-6)


def test_the_anchor_is_the_null_embedding_that_the_fit_begins_with(model: DiffusionModel) -> None:
    trajectory, text, null = pivots(model, 1, torch.float32)
    held, free = (
        next(iter(null_text_steps(model, trajectory, text, null, GUIDANCE, gauss_newton_solver(1, anchor_weight=mu))))
        for mu in (1e6, 0.0)
    )
    torch.testing.assert_close(held.null_embeds, null.prompt_embeds, rtol=0, atol=1e-3)
    assert float((free.null_embeds - null.prompt_embeds).abs().max()) > 0.1


def test_the_stored_embeddings_give_the_same_path_again(model: DiffusionModel) -> None:
    trajectory, text, null = pivots(model, 2, torch.float32)
    steps = list(null_text_steps(model, trajectory, text, null, GUIDANCE, gauss_newton_solver()))
    embeds = per_step(null, torch.stack([step.null_embeds for step in steps]))
    *_, last = denoise(model, trajectory.noise, constant(text), embeds, STEPS, GUIDANCE)
    torch.testing.assert_close(last.latents, steps[-1].latents, rtol=1e-3, atol=1e-3)


def test_one_step_costs_the_calls_that_are_promised(model: DiffusionModel) -> None:
    for solver, calls in ((adam_solver(10), 1 + 10 + 1), (gauss_newton_solver(1), 4), (gauss_newton_solver(2), 5)):
        trajectory, text, null = pivots(model, 2, torch.float32)
        before = model.counter.calls
        next(iter(null_text_steps(model, trajectory, text, null, GUIDANCE, solver)))
        assert model.counter.calls - before == calls


def test_a_threshold_that_is_met_costs_nothing_more(model: DiffusionModel) -> None:
    """At guidance 1 the null half has no weight: there is nothing to fit and the first loss is rounding."""
    trajectory, text, null = pivots(model, 1, torch.float32)
    noise = torch.zeros_like(trajectory.image)
    model.predict_noise = lambda *_: noise  # type: ignore[method-assign]
    still = trajectory_of(trajectory.image, list(ddim_inversion_steps(model, trajectory.image, text, STEPS)))
    for step in null_text_steps(model, still, text, null, GUIDANCE, gauss_newton_solver()):
        assert len(step.losses) == 1


def test_the_unet_is_itself_again_after_an_exception(model: DiffusionModel) -> None:
    trajectory, text, null = pivots(model, 1, torch.float32)

    def failing(*_: object) -> None:
        raise RuntimeError("solver")

    with pytest.raises(RuntimeError, match="solver"):
        next(iter(null_text_steps(model, trajectory, text, null, GUIDANCE, failing)))  # type: ignore[arg-type]
    assert all("forward" not in module.__dict__ for module in model.unet.modules())


def test_a_batch_that_is_split_to_fit_memory_is_fitted_like_one_that_is_not(exact: DiffusionModel) -> None:
    together = fit(exact, 2, gauss_newton_solver(), torch.float64)
    exact.max_batch = 1
    split = fit(exact, 2, gauss_newton_solver(), torch.float64)
    for one, other in zip(together, split, strict=True):
        torch.testing.assert_close(one.null_embeds, other.null_embeds, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(one.latents, other.latents, rtol=1e-6, atol=1e-6)
