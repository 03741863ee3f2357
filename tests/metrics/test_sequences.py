"""Adjacent distances and their deviation against closed forms."""

from __future__ import annotations

import math

import pytest
import torch

from smoothtool.errors import InputError
from smoothtool.metrics.sequences import adjacent_l2, deviation, path_figures, pixel_l2


def flat_frames(levels: list[float], size: int = 4) -> torch.Tensor:
    """Plain gray frames of these [0, 1] levels, as pixel_values."""
    return torch.stack([torch.full((3, size, size), 2 * level - 1) for level in levels])


def test_distance_of_plain_frames_is_the_step_times_the_root_of_the_pixel_count() -> None:
    distances = adjacent_l2(flat_frames([0, 0.25, 1])).tolist()
    assert distances == pytest.approx([0.25 * math.sqrt(48), 0.75 * math.sqrt(48)])


def test_even_steps_have_no_deviation() -> None:
    assert deviation(flat_frames([0, 0.25, 0.5, 0.75, 1])).population_std == pytest.approx(0, abs=1e-12)


def test_a_known_uneven_path_has_its_computed_deviation() -> None:
    result = deviation(flat_frames([0, 0.1, 0.4, 0.9]))
    steps = [0.1, 0.3, 0.5]
    assert result.mean == pytest.approx(0.3 * math.sqrt(48), rel=1e-6)
    assert result.population_std == pytest.approx(math.sqrt(sum((s - 0.3) ** 2 for s in steps) / 3 * 48), rel=1e-6)
    assert result.sample_std == pytest.approx(math.sqrt(sum((s - 0.3) ** 2 for s in steps) / 2 * 48), rel=1e-6)


def test_the_normalised_deviation_does_not_depend_on_the_size() -> None:
    small, large = (deviation(flat_frames([0, 0.1, 0.4], size)).normalised_std for size in (4, 16))
    assert small == pytest.approx(large, rel=1e-6)
    assert small == pytest.approx(0.1, rel=1e-6)


def test_a_batch_of_sequences_gives_each_its_distances() -> None:
    batch = torch.randn(3, 5, 3, 4, 4)
    assert adjacent_l2(batch).shape == (3, 4)
    assert torch.equal(adjacent_l2(batch)[1], adjacent_l2(batch[1]))


def test_ppl_and_pdv_are_sum_and_variance_of_the_named_distance() -> None:
    figures = path_figures(flat_frames([0, 0.1, 0.4]), pixel_l2, "pixel L2")
    assert figures.distance == "pixel L2"
    assert figures.ppl == pytest.approx(0.4 * math.sqrt(48), rel=1e-6)
    assert figures.pdv == pytest.approx(0.1**2 * 48, rel=1e-6)


def test_two_frames_have_no_sample_deviation() -> None:
    assert deviation(flat_frames([0, 1])).sample_std is None


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_frames_are_refused(count: int) -> None:
    with pytest.raises(InputError, match="at least two frames"):
        deviation(flat_frames([0.5] * count)) if count else adjacent_l2(torch.zeros(0, 3, 4, 4))
