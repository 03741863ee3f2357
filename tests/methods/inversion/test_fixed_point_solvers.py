"""Plain iteration, Anderson acceleration and AdamW on maps whose fixed point is known."""

from __future__ import annotations

import pytest
import torch

from smoothtool.methods.inversion.fixed_point_solvers import (
    FixedPointSolver,
    Map,
    adamw_solver,
    anderson_solver,
    plain_solver,
)

SHAPE = (1, 4, 3, 3)


def linear(slopes: list[float], target: float = 2.0) -> tuple[Map, torch.Tensor]:
    """f(z) = z* + slope (z - z*) with slopes that repeat over the entries, and its fixed point z*."""
    fixed = torch.full(SHAPE, target, dtype=torch.float64)
    repeated = torch.tensor(slopes * (fixed.numel() // len(slopes)), dtype=torch.float64).view(SHAPE)
    return lambda point: fixed + repeated * (point - fixed), fixed


def solve(solver: FixedPointSolver, image_of: Map, pictures: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(pictures, *SHAPE[1:], dtype=torch.float64, generator=generator)
    return solver(image_of, image_of(start), (start, image_of(start)))


def error(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().max())


@pytest.mark.parametrize("solver", [plain_solver(60, 1e-24), anderson_solver(60, 1e-24)])
def test_a_contraction_is_solved_to_its_fixed_point(solver: FixedPointSolver) -> None:
    image_of, fixed = linear([0.5, -0.3, 0.1])
    assert error(solve(solver, image_of)[0], fixed) < 1e-11


def test_anderson_needs_about_one_round_per_direction_of_a_linear_map() -> None:
    image_of, fixed = linear([0.9, 0.6, 0.3])
    assert error(solve(anderson_solver(6, 0.0), image_of)[0], fixed) < 1e-5
    assert error(solve(plain_solver(6, 0.0), image_of)[0], fixed) > 0.1


def test_anderson_finds_the_fixed_point_of_a_map_that_does_not_contract() -> None:
    image_of, fixed = linear([-1.5, 0.4, 1.2])
    assert error(solve(anderson_solver(8, 0.0), image_of)[0], fixed) < 1e-4


def test_plain_iteration_on_a_map_that_does_not_contract_ends_no_further_away_than_it_began() -> None:
    image_of, _ = linear([-1.5])
    found, residuals = solve(plain_solver(9, 0.0), image_of)
    assert residuals[-1] > residuals[1]
    assert float((image_of(found) - found).square().mean().sqrt()) == pytest.approx(1.5 * float(residuals[1]))


def test_adamw_comes_closer_at_about_its_rate_a_round() -> None:
    image_of, fixed = linear([0.5])
    moved = solve(adamw_solver(50, 0.0, 1e-2), image_of)[0] - solve(adamw_solver(0), image_of)[0]
    away = fixed - solve(adamw_solver(0), image_of)[0]
    assert torch.equal(moved.sign(), away.sign())
    assert 0.3 < float(moved.abs().mean()) < 0.51


@pytest.mark.parametrize("solver", [plain_solver(9, 0.05), anderson_solver(9, 0.05), adamw_solver(9, 0.05)])
def test_residuals_are_those_of_the_known_pair_and_of_every_rounds_iterate(solver: FixedPointSolver) -> None:
    image_of, _ = linear([0.05])
    _, residuals = solve(solver, image_of)
    assert residuals.shape == (2, 1)
    assert float(residuals[1]) == pytest.approx(0.05 * float(residuals[0]))
    assert float(residuals[1]) ** 2 < 0.05


@pytest.mark.parametrize("solver", [plain_solver(9, 1e-4), anderson_solver(9, 1e-4), adamw_solver(9, 1e-4, 0.1)])
def test_every_picture_is_solved_as_it_would_be_alone(solver: FixedPointSolver) -> None:
    """The first is a tenth as far away, and arrives rounds before the second."""

    def image_of(point: torch.Tensor) -> torch.Tensor:
        return 0.6 * point + 0.1 * torch.sin(point)

    start = torch.randn(2, *SHAPE[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    start[0] /= 10
    both, residuals = solver(image_of, image_of(start), (start, image_of(start)))
    for row in range(2):
        own = start[[row]]
        alone, last = solver(image_of, image_of(own), (own, image_of(own)))
        torch.testing.assert_close(both[[row]], alone, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(residuals[-1, row], last[-1, 0], rtol=1e-9, atol=0)


def test_no_rounds_leave_the_start() -> None:
    image_of, _ = linear([0.5])
    for solver in (plain_solver(0), anderson_solver(0), adamw_solver(0)):
        found, residuals = solve(solver, image_of)
        assert len(residuals) == 1
        assert torch.equal(found, solve(plain_solver(0), image_of)[0])


def test_anderson_bears_float16_noise_in_the_map() -> None:
    image_of, fixed = linear([0.9, 0.6, 0.3])
    rounded: Map = lambda point: image_of(point).half().double()  # noqa: E731
    found, residuals = solve(anderson_solver(25, 0.0), rounded)
    assert error(found, fixed) < 1e-2
    assert float(residuals.min()) < 2e-3
