"""How sure a figure is: 95 % bootstrap intervals of means (Efron 1979), the jackknife where a figure is no mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from smoothtool.errors import InputError
from smoothtool.figures import IntervalFigures

RESAMPLES = 10_000
BLOCK_VALUES = 4_000_000  # resampled values held at once, some 64 MB
ENOUGH = 6
"""Resampling fewer values gives intervals that are much too narrow: of two values, those two."""
PARTS = 20
STUDENT = 2.093  # the 97.5 % quantile of Student's t with PARTS - 1 degrees of freedom


@dataclass(frozen=True)
class Interval:
    """A figure over `count` values, and the interval `low` to `high` that holds it with 95 % confidence."""

    mean: float
    low: float
    high: float
    count: int

    def figures(self) -> IntervalFigures:
        return {"mean": self.mean, "low": self.low, "high": self.high, "count": self.count}

    @property
    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


def bootstrap_mean(values: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Resample with replacement, take the means, read off their 2.5 % and 97.5 % quantiles.

    The same values in the same order and the same seed give the same interval. One value is its own interval.
    Raises: InputError when there are no values, or when one is not finite.
    """
    sample = np.asarray(values, dtype=np.float64)
    if sample.size == 0:
        raise InputError("a mean of no values has no interval", "at least one prompt or picture")
    if not np.isfinite(sample).all():
        raise InputError("a mean of values that are not finite has no interval", "leave the broken pictures out")
    rng = np.random.default_rng(seed)
    block = max(1, BLOCK_VALUES // sample.size)
    sizes = [min(block, resamples - done) for done in range(0, resamples, block)]
    means = np.concatenate([sample[rng.integers(sample.size, size=(n, sample.size))].mean(axis=1) for n in sizes])
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(sample.mean()), float(low), float(high), int(sample.size))


def paired_difference(before: Sequence[float], after: Sequence[float], *, seed: int = 0) -> Interval:
    """The interval of the mean of after_i - before_i: pairs are resampled together, so what they share cancels.

    Raises: InputError when the two are not of one length.
    """
    if len(before) != len(after):
        raise InputError(f"{len(before)} values cannot be paired with {len(after)}", "the same prompts for both models")
    return bootstrap_mean([b - a for a, b in zip(before, after, strict=True)], seed=seed)


def jackknife(value: float, left_out: Sequence[float]) -> Interval:
    """The interval of a figure that is no mean, known also without each of `PARTS` parts of its data (Tukey 1958).

    The sum of squares of what the parts change, times (PARTS - 1) / PARTS, is the figure's variance.
    Raises: InputError when there are fewer parts, or one is not finite.
    """
    parts = np.asarray(left_out, dtype=np.float64)
    if parts.size != PARTS:
        raise InputError(f"a jackknife takes {PARTS} parts, not {parts.size}", f"at least {PARTS} pictures")
    if not (np.isfinite(parts).all() and np.isfinite(value)):
        raise InputError("a figure that is not finite has no interval", "leave the broken pictures out")
    half = STUDENT * float(np.sqrt((PARTS - 1) / PARTS * np.square(parts - parts.mean()).sum()))
    return Interval(value, value - half, value + half, PARTS)
