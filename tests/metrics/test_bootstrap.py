"""Bootstrap intervals against the normal approximation and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from smoothtool.errors import InputError
from smoothtool.metrics.bootstrap import PARTS, bootstrap_mean, jackknife, paired_difference

VALUES = np.random.default_rng(1).normal(5, 2, size=200).tolist()


def test_interval_agrees_with_scipys_percentile_bootstrap() -> None:
    interval = bootstrap_mean(VALUES)
    witness = stats.bootstrap((VALUES,), np.mean, n_resamples=10_000, method="percentile", rng=7).confidence_interval
    width = witness.high - witness.low
    assert interval.mean == pytest.approx(np.mean(VALUES), rel=1e-12)
    assert interval.low == pytest.approx(witness.low, abs=0.05 * width)
    assert interval.high == pytest.approx(witness.high, abs=0.05 * width)


def test_the_seed_decides() -> None:
    assert bootstrap_mean(VALUES, seed=3) == bootstrap_mean(VALUES, seed=3)
    assert bootstrap_mean(VALUES, seed=3) != bootstrap_mean(VALUES, seed=4)


def test_pairing_cancels_what_the_two_share() -> None:
    after = [value - 1 for value in VALUES]
    difference = paired_difference(VALUES, after)
    assert (difference.low, difference.high) == pytest.approx((-1, -1))
    assert difference.excludes_zero
    assert not paired_difference(VALUES, VALUES).excludes_zero


def test_one_value_is_its_own_interval() -> None:
    interval = bootstrap_mean([4.0])
    assert (interval.mean, interval.low, interval.high, interval.count) == (4, 4, 4, 1)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")]])
def test_nothing_and_nan_are_refused(values: list[float]) -> None:
    with pytest.raises(InputError):
        bootstrap_mean(values)


def test_unequal_lengths_cannot_be_paired() -> None:
    with pytest.raises(InputError, match="paired"):
        paired_difference([1, 2], [1])


def test_the_jackknife_of_a_mean_is_students_interval() -> None:
    values = np.array(VALUES[:PARTS])
    interval = jackknife(values.mean(), [float(np.delete(values, at).mean()) for at in range(PARTS)])
    witness = stats.t.interval(0.95, PARTS - 1, loc=values.mean(), scale=stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx(witness, rel=1e-4)


def test_a_jackknife_of_too_few_parts_or_a_broken_one_is_refused() -> None:
    with pytest.raises(InputError, match="takes 20 parts, not 3"):
        jackknife(1.0, [1.0, 1.0, 1.0])
    with pytest.raises(InputError, match="not finite"):
        jackknife(1.0, [float("nan")] * PARTS)
