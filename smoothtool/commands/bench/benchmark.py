"""What a published benchmark is to `smoothtool bench`: items, the command that makes them, rules, published rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    """columns: head of each column in tables. rule: how the means are taken. published: rows of the papers, by name."""

    command: str
    read: Callable[[Path], Sequence[BenchItem]]
    measure: Callable[[BenchJob, Track], Measure]
    columns: Mapping[str, str]
    rule: str
    published: Mapping[str, Figures]
