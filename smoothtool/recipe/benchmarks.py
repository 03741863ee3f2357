"""The jobs that `smoothtool bench` is made of: one of `edit`, `interpolate` or `drag` for every item of a benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from smoothtool.errors import UsageError
from smoothtool.files.lists.published_sets import read_drag_bench, read_morph_bench, read_pie_bench
from smoothtool.jobs import BenchJob, Job, make_job, parse_setting
from smoothtool.readers.regular import at_home

if TYPE_CHECKING:
    from smoothtool.files.lists.published_sets import DragBenchItem, MorphPair, PieItem

MORPH_FRAMES = 17
"""Of a walk in MorphBench, the two pictures included."""
COMMANDS = {"pie": "edit", "morph": "interpolate", "drag": "drag"}
"""By benchmark, the command that makes an item."""


@dataclass(frozen=True)
class BenchItem:
    """One item: `key` names it and its folder, `settings` are the options that it adds to those of all items."""

    key: str
    settings: Mapping[str, Any]
    source: Any


def read_items(job: BenchJob) -> list[BenchItem]:
    """The items of the job's benchmark, up to its limit. Raises: InputError when the folder is not as published."""
    folder = at_home(job.folder)
    items: Iterable[BenchItem]
    if job.benchmark == "pie":
        items = map(_edit, read_pie_bench(folder))
    elif job.benchmark == "morph":
        items = map(_walk, read_morph_bench(folder))
    else:
        items = map(_drag, read_drag_bench(folder))
    return list(items)[: job.limit]


def job_of_item(job: BenchJob, item: BenchItem) -> Job:
    """The job that makes one item. Raises: UsageError that names what its command does not take."""
    everyone = job.model_settings()
    chosen = {key: getattr(job, key) for key in ("method", "inversion") if getattr(job, key) is not None}
    own = dict(parse_setting(text) for text in job.options)
    taken = {*everyone, *item.settings, "output", "force", "format", "quality"}
    clash = next((key for key in own if key in taken), None)
    if clash is not None:
        raise UsageError(f"--set {clash}: has a place of its own", f"--{clash.replace('_', '-')}, or leave it out")
    return make_job(COMMANDS[job.benchmark], {**everyone, **chosen, **item.settings, **own})


def share(items: Sequence[BenchItem], index: int, count: int) -> Sequence[BenchItem]:
    """The items of share `index` of `count`, counted from 1."""
    return items[index - 1 :: count]


def _edit(item: PieItem) -> BenchItem:
    return BenchItem(item.key, {"image": str(item.picture), "src": item.source, "trg": [item.target]}, item)


def _walk(pair: MorphPair) -> BenchItem:
    pictures = [str(picture) for picture in pair.pictures]
    return BenchItem(pair.key, {"images": pictures, "frames": str(MORPH_FRAMES - 2)}, pair)


def _drag(item: DragBenchItem) -> BenchItem:
    return BenchItem(item.key, {"image": str(item.picture), "points": str(item.points)}, item)
