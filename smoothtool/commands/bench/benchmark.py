"""What a published benchmark is to `smoothtool bench`: items, the command that makes them, rules, published rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.types import Track

if TYPE_CHECKING:
    from smoothtool.jobs import BenchJob

Figures = dict[str, float | None]
"""By column; None where a figure cannot be had for this item, or on this machine."""


@dataclass(frozen=True)
class BenchItem:
    """One item: `key` names it and its folder, `settings` are what the command is asked for besides everyone's."""

    key: str
    settings: Mapping[str, Any]
    source: Any


Measure = Callable[[BenchItem, Path], tuple[Figures, Figures]]
"""An item and the folder of its result -> the figures of the result, and of doing nothing."""


@dataclass(frozen=True)
class Benchmark:
    """What one benchmark consists of.

    columns    head of each column in tables
    rule       how the means are taken, in words
    published  rows of the papers, by name
    weights    columns whose mean is over the parts of items, and the figure that says how many an item has
    """

    command: str
    read: Callable[[Path], Sequence[BenchItem]]
    measure: Callable[[BenchJob, Track, ModelPool], Measure]
    columns: Mapping[str, str]
    rule: str
    published: Mapping[str, Figures]
    weights: Mapping[str, str] = field(default_factory=dict)
