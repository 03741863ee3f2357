"""Which length the regulariser's finite difference has, and where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from toys import tiny_model

from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import UsageError
from smoothtool.methods.smoothness.step_variation import Gradient
from smoothtool.training.difference import finite_difference_step, forbid_tf32, required_difference_step


@pytest.fixture
def velocity(tmp_path: Path) -> DiffusionModel:
    return tiny_model(tmp_path / "velocity", prediction_type="v_prediction")


def test_velocities_take_a_tenth_of_the_length_that_noise_takes(
    model: DiffusionModel, velocity: DiffusionModel
) -> None:
    lengths = [finite_difference_step("central", one) for one in (model, velocity)]
    assert lengths == [3e-4, 3e-5]


@pytest.mark.parametrize("gradient", ["central", "one-sided", "forward-variation"])
def test_rounded_passes_take_a_long_difference_for_noise_and_none_for_velocities(
    model: DiffusionModel, velocity: DiffusionModel, gradient: Gradient
) -> None:
    assert finite_difference_step(gradient, model, mixed=True) > 10 * finite_difference_step(gradient, model)
    with pytest.raises(UsageError, match="predicts velocities") as refused:
        required_difference_step(gradient, velocity, mixed=True)
    assert "float32" in refused.value.hint
    velocity.unet.half()
    assert finite_difference_step(gradient, velocity) is None


def test_the_double_backward_takes_no_difference_and_any_precision(velocity: DiffusionModel) -> None:
    assert required_difference_step("double-backward", velocity, mixed=True) == 0


@pytest.fixture
def tf32() -> Iterator[Callable[[], list[bool]]]:
    """Allowed, as loading a model on CUDA leaves it; put back afterwards."""
    places = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [place.allow_tf32 for place in places]
    for place in places:
        place.allow_tf32 = True
    yield lambda: [place.allow_tf32 for place in places]
    for place, value in zip(places, before, strict=True):
        place.allow_tf32 = value


def test_tf32_is_forbidden_where_it_has_no_length(
    model: DiffusionModel, velocity: DiffusionModel, tf32: Callable[[], list[bool]]
) -> None:
    forbid_tf32("double-backward", velocity)
    forbid_tf32("central", model)
    assert tf32() == [True, True]
    forbid_tf32("central", velocity)
    assert tf32() == [False, False]
