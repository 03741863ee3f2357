"""What a published benchmark is to `smoothtool bench`: rules, columns, published rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.recipe.benchmarks import BenchItem
from smoothtool.types import Track

if TYPE_CHECKING:
    from smoothtool.jobs import BenchJob

Figures = dict[str, "float | None"]
"""By column; None where a figure cannot be had for this item, or on this machine."""
Measure = Callable[[BenchItem, Path], tuple[Figures, Figures]]
"""An item and the folder of its result -> the figures of the result, and of doing nothing."""


Together = Callable[["BenchJob", Sequence[tuple[BenchItem, Path]], Track], tuple[Figures, Figures]]
"""The items that are made, each with the folder of its result -> figures of all of them, and of doing nothing."""


@dataclass(frozen=True)
class Benchmark:
    """What one benchmark consists of.

    columns    head of each column in tables
    rule       how the means are taken, in words
    published  rows of the papers, by name
    together   columns that are no means, but distances between sets of pictures
    weights    columns whose mean is over the parts of items, and the figure that says how many an item has
    """

    measure: Callable[[BenchJob, Track, ModelPool], Measure]
    columns: Mapping[str, str]
    rule: str
    published: Mapping[str, Figures]
    weights: Mapping[str, str] = field(default_factory=dict)
    together: Together | None = None
