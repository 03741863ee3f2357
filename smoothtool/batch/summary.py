"""What a batch leaves for people and programs: batch.json, and index.html with every result at a glance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smoothtool.batch.gallery import Card, write_gallery
from smoothtool.errors import SmoothtoolError
from smoothtool.files.storage.reports import versions
from smoothtool.files.storage.writing import write_json_atomic
from smoothtool.readers.fields import read_fields
from smoothtool.types import Outcome, Track
from smoothtool.weights.sample_pictures import resolve_picture

if TYPE_CHECKING:
    from smoothtool.jobs import Job
    from smoothtool.recipe.plan import Plan

SHOWN = ("edited", "reconstruction", "dragged", "sheet", "plot", "before_after")
"""Entries of a report's `files` that show the result, the best first."""
DONE = ("made", "skipped")


def write_summary(
    plan: Plan, outcomes: Sequence[Outcome], folder: Path, seconds: float, track: Track, *, thumbnails: bool = True
) -> None:
    """batch.json and index.html, as things stand; without `thumbnails`, those that are there already are shown."""
    reports = [_report(folder, outcome) for outcome in outcomes]
    rows = [_row(*pair) for pair in zip(outcomes, reports, strict=True)]
    counts = dict(Counter(outcome.status for outcome in outcomes))
    summary = {
        "title": plan.title,
        "counts": counts,
        "seconds": round(seconds, 3),
        "items": rows,
        "versions": versions(),
    }
    write_json_atomic(folder / "batch.json", summary)
    varied = _varied([item.job for item in plan.items])
    cards = [
        _card(item.job, outcome, row, report, folder, varied)
        for item, outcome, row, report in zip(plan.items, outcomes, rows, reports, strict=True)
    ]
    write_gallery(folder / "index.html", plan.title, counts, cards, track, thumbnails=thumbnails)


def _report(folder: Path, outcome: Outcome) -> dict[str, Any]:
    """The item's report.json; empty when there is none, or none that can be read."""
    if outcome.status not in DONE:
        return {}
    try:
        report = read_fields(folder / outcome.record["name"] / "report.json")
        return {
            **report.values,
            "files": report.fields("files", {}).values,
            "notes": report.texts("notes", []),
            "unet_calls": report.whole("unet_calls", 0),
        }
    except SmoothtoolError:
        return {}


def _row(outcome: Outcome, report: dict[str, Any]) -> dict[str, Any]:
    """One item in batch.json: where its result is, or what went wrong."""
    kept = ("seconds", "error", "hint", "exit_code")
    place = {"folder": outcome.record["name"]} if outcome.status in DONE else {}
    return {
        "name": outcome.name,
        "command": outcome.command,
        "status": outcome.status,
        **place,
        **{key: outcome.record[key] for key in kept if key in outcome.record},
        **({"metrics": dict(metrics_of(report)), "notes": report.get("notes", [])} if report else {}),
    }


def metrics_of(report: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Every single number among a report's figures, named by the way to it; lists of one count as that one."""
    yield from _numbers(report.get("figures", {}), "")
    yield "unet_calls", report.get("unet_calls", 0)


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _numbers(part, f"{name} {key}".strip())
    elif isinstance(value, list) and len(value) == 1:
        yield from _numbers(value[0], name)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield name, value


def _varied(jobs: Sequence[Job]) -> set[str]:
    """Keys of settings in which the jobs differ: what a person wants to see under each picture."""
    seen: dict[str, set[str]] = {}
    for job in jobs:
        for key, value in job.settings().items():
            seen.setdefault(key, set()).add(str(value))
    return {key for key, values in seen.items() if len(values) > 1} - {"image", "images"}


def _card(
    job: Job, outcome: Outcome, row: dict[str, Any], report: dict[str, Any], folder: Path, varied: set[str]
) -> Card:
    settings = {key: value for key, value in job.settings().items() if value not in (None, [], "")}
    place = outcome.record.get("name", outcome.name)
    after = next((_first(report["files"][key]) for key in SHOWN if key in report.get("files", {})), None)
    return Card(
        name=outcome.name,
        status=outcome.status,
        link=f"{place}/" if report else "",
        before=_source(settings),
        after=folder / place / after if after else None,
        settings={key: value for key, value in settings.items() if key in varied},
        every_setting=settings,
        metrics=row.get("metrics", {}),
        notes=[*row.get("notes", []), *([row["error"]] if "error" in row else [])],
    )


def _first(files: Any) -> str:
    return str(files[0] if isinstance(files, list) else files)


def _source(settings: dict[str, Any]) -> Path | None:
    name = settings.get("image") or next(iter(settings.get("images", [])), None)
    try:
        return resolve_picture(str(name)) if name else None
    except SmoothtoolError:
        return None
