"""Figures with what they were taken from, the cells and orderings made of them, and the figures of the paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from smoothtool.commands.tables.document import Cell, Ordering
from smoothtool.metrics.bootstrap import ENOUGH, Interval, bootstrap_mean, jackknife, paired_difference

PAPER_TITLE = "Smooth Diffusion (Guo et al., CVPR 2024, arXiv:2312.04410), Stable Diffusion 1.5"
PAPER_GENERATION = {"base": (38.63, 12.70, 31.46), "smooth": (16.54, 12.10, 31.54)}
"""Table 1: ISTD, FID, CLIP score."""
PAPER_RECONSTRUCTION = {
    "base, DDIM": (0.1756, 0.5385, 0.2662, 13.97),
    "smooth, DDIM": (0.1086, 0.4326, 0.3418, 16.17),
    "base, NTI": (0.0156, 0.1656, 0.6068, 25.63),
    "smooth, NTI": (0.0153, 0.1635, 0.6102, 25.74),
    "VAE alone": (0.0148, 0.1590, 0.6136, 25.98),
}
"""Table 2: MSE, LPIPS, SSIM, PSNR."""
PAPER_LAMBDA = {"0.1": (24.23, 12.15), "1": (16.54, 12.11), "10": (11.51, 17.44)}
"""Table 3, by the weight of the regulariser: ISTD, FID."""
PAPER_RANK = {"4": (16.76, 12.36), "8": (16.54, 12.11), "16": (16.65, 11.49), "full": (11.52, 27.27)}
"""Table 4, by the rank of the LoRA: ISTD, FID."""


def weights_of_table_3(weight: float) -> list[str]:
    """A tenth of table 4's lambda, lambda itself, and ten times it, as the paper has 0.1, 1 and 10."""
    return [f"{weight * float(ratio):g}" for ratio in PAPER_LAMBDA]


@dataclass(frozen=True)
class Figure:
    """One measured figure, with what gives it an interval.

    report    path of the report it is read from, relative to the tables
    reason    why it was not measured; empty where it was
    per_item  where it is a mean: its values over prompts, pictures or walks
    left_out  where it is none: its value without each twentieth of the pictures
    """

    value: float | None = None
    report: str = ""
    per_item: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    left_out: tuple[float, ...] = ()

    def cell(self, paper: float | None = None) -> Cell:
        interval = self.interval()
        low, high = (interval.low, interval.high) if interval else (None, None)
        return Cell(self.value, low, high, self.report, paper, self.reason)

    def interval(self) -> Interval | None:
        if len(self.per_item) >= ENOUGH:
            return bootstrap_mean(list(self.per_item.values()))
        if self.value is not None and self.left_out:
            return jackknife(self.value, self.left_out)
        return None

    def below(self, higher: Figure) -> Interval | None:
        """By how much this one lies below the other, on the same items or the same parts of the pictures left out."""
        if len(self.per_item) >= ENOUGH and self.per_item.keys() == higher.per_item.keys():
            return paired_difference(list(self.per_item.values()), [higher.per_item[item] for item in self.per_item])
        if self.value is not None and higher.value is not None and self.left_out and higher.left_out:
            parts = [b - a for a, b in zip(self.left_out, higher.left_out, strict=True)]
            return jackknife(higher.value - self.value, parts)
        return None


def missing(reason: str) -> Figure:
    return Figure(reason=reason)


def mean_figure(per_item: Mapping[str, Any], report: str) -> Figure:
    """The mean over items; not a figure where one of them has none, such as the PSNR of a picture without error."""
    lacking = [item for item, value in per_item.items() if value is None]
    if lacking or not per_item:
        return missing(f"{lacking[0]} has none" if lacking else "there is nothing to take the mean of")
    return Figure(fmean(per_item.values()), report, dict(per_item))


def _why_none(figure: Figure) -> str:
    few = len(figure.per_item)
    return f"{few} {'item is' if few == 1 else 'items are'} too few" if few else "one figure each"


def below(claim: str, lower: Figure, higher: Figure) -> Ordering:
    """Whether `lower` is below `higher`: decided by the interval of their difference, where there is one."""
    for figure in (lower, higher):
        if figure.value is None:
            return Ordering(claim, "not measured", figure.reason)
    assert lower.value is not None
    assert higher.value is not None
    values = f"{lower.value:.4g} should be below {higher.value:.4g}"
    difference = lower.below(higher)
    if difference is None:
        verdict = "holds" if lower.value < higher.value else "does not hold"
        return Ordering(claim, f"{verdict}, without interval", f"{values}; {_why_none(lower)}")
    verdict = "holds" if difference.low > 0 else "does not hold" if difference.high < 0 else "undecided"
    span = f"{difference.mean:.4g} ({difference.low:.4g} to {difference.high:.4g})"
    count = f" over {difference.count}" if lower.per_item else ""
    return Ordering(claim, verdict, f"{values}; difference {span}{count}")


def generation_orderings(base: Sequence[Figure], smooth: Sequence[Figure], names: Sequence[str]) -> list[Ordering]:
    """Of Table 1: smoother, at no cost in quality or in fit to the prompt."""
    return [
        below(f"Table 1: {names[0]} of smooth below base", smooth[0], base[0]),
        below(f"Table 1: {names[1]} of smooth below base", smooth[1], base[1]),
        below(f"Table 1: {names[2]} of smooth above base", base[2], smooth[2]),
    ]


def reconstruction_orderings(rows: Mapping[str, Sequence[Figure]], names: Sequence[str]) -> list[Ordering]:
    """Of Table 2: smooth before base, NTI before DDIM, the VAE before all; errors below, likeness above."""
    better_worse = [
        ("smooth, DDIM", "base, DDIM"),
        ("smooth, NTI", "base, NTI"),
        ("base, NTI", "base, DDIM"),
        ("VAE alone", "smooth, NTI"),
    ]
    found = []
    for better, worse in better_worse:
        for at, name in enumerate(names):
            word, pair = ("below", (better, worse)) if at < 2 else ("above", (worse, better))
            claim = f"Table 2: {name} of {better} {word} {worse}"
            found.append(below(claim, rows[pair[0]][at], rows[pair[1]][at]))
    return found


def training_orderings(
    by_lambda: Mapping[str, Sequence[Figure]], by_rank: Mapping[str, Sequence[Figure]], names: Sequence[str]
) -> list[Ordering]:
    """Of Tables 3 and 4: more regularisation and full training are smoother, and cost quality."""
    istd, fid = names
    (low, least), (middle, median), (high, most) = by_lambda.items()
    return [
        below(f"Table 3: {istd} of lambda {middle} below {low}", median[0], least[0]),
        below(f"Table 3: {istd} of lambda {high} below {middle}", most[0], median[0]),
        below(f"Table 3: {fid} of lambda {middle} below {high}", median[1], most[1]),
        below(f"Table 4: {istd} of rank 8 below 4", by_rank["8"][0], by_rank["4"][0]),
        below(f"Table 4: {istd} of rank 8 below 16", by_rank["8"][0], by_rank["16"][0]),
        below(f"Table 4: {istd} of full training below rank 8", by_rank["full"][0], by_rank["8"][0]),
        below(f"Table 4: {fid} of rank 8 below full training", by_rank["8"][1], by_rank["full"][1]),
    ]
