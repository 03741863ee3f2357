"""What `bench_edits.py` prints of its results: tables, differences with intervals, the winners of `--method auto`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean
from typing import Any

from smoothtool.files.drawing.markdown import markdown_table
from smoothtool.jobs.edit_choice import ANY, NO_SOURCE
from smoothtool.metrics.bootstrap import paired_difference

Row = dict[str, Any]
Variant = tuple[str, str, str]
"""Method, inversion, and other settings as `KEY=VALUE KEY=VALUE`."""
QUALITY = ("outside_psnr_db", "outside_ssim", "inside_to_truth_psnr_db", "truth_psnr_db", "clip_score")
COST = ("inversion_calls", "inversion_seconds", "edit_calls", "edit_seconds")
GIVEN_BACK = ("reconstruction_psnr_db", "vae_psnr_db", "reconstruction_mse", "vae_mse", *COST[:2])
NOTHING, ALL = "no edit", "true edit"
BOUNDS = (NOTHING, ALL)
WITHOUT_SOURCE = ("pnp", "sdedit")
"""Methods that do not read the source prompt."""


def variant_of(row: Row) -> Variant:
    return row["method"], row["inversion"], row.get("settings", "")


def print_tables(rows: Sequence[Row], order: Sequence[tuple[str, str]]) -> None:
    """Over all scenes, by kind of edit, and what the inversions give back."""

    def place(row: Row) -> tuple[int, str]:
        known = (row["method"], row["inversion"])
        return order.index(known) if known in order else len(order), row.get("settings", "")

    rows = sorted(rows, key=place)
    heads = ("method", "inversion", "settings")
    print(_table(rows, (*QUALITY, *COST), heads))
    print(_table(sorted(rows, key=lambda row: row["task"] % 4), QUALITY, ("kind", *heads)))
    print(_table([row for row in rows if row["method"] == "switch"], GIVEN_BACK, ("inversion", "settings")))


def _table(rows: Sequence[Row], keys: Sequence[str], heads: Sequence[str]) -> str:
    """A line of means for every value of the heads."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(head, "") for head in heads), []).append(row)
    lines = []
    for group, members in groups.items():
        failed = sum("error" in row for row in members)
        counts = {"n": len(members) - failed, "failed": failed}
        lines.append(dict(zip(heads, group, strict=True)) | counts | {key: _mean(members, key) for key in keys})
    return markdown_table(lines) if lines else ""


def print_against(before: Sequence[Row], after: Sequence[Row]) -> None:
    """What changes for every variant from one file of results to another."""
    for variant in dict.fromkeys(map(variant_of, after)):
        chosen = ([row for row in rows if variant_of(row) == variant] for rows in (before, after))
        _print_change(" ".join(filter(None, variant)), *chosen, ("reconstruction_psnr_db", *QUALITY))


def print_beside(rows: Sequence[Row], method: str, inversion: str) -> None:
    """What every variant has more than one of them."""
    first = [row for row in rows if variant_of(row) == (method, inversion, "")]
    for variant in dict.fromkeys(map(variant_of, rows)):
        if variant != (method, inversion, "") and variant[0] not in BOUNDS:
            own = [row for row in rows if variant_of(row) == variant]
            _print_change(" ".join(filter(None, variant)), first, own, QUALITY)


def _print_change(name: str, before: Sequence[Row], after: Sequence[Row], keys: Iterable[str]) -> None:
    """Mean and interval of after - before over the scenes that both have."""
    first, second = ({row["task"]: row for row in rows} for rows in (before, after))
    for key in keys:
        tasks = [
            task
            for task in first.keys() & second.keys()
            if first[task].get(key) is not None and second[task].get(key) is not None
        ]
        if tasks:
            change = paired_difference([first[task][key] for task in tasks], [second[task][key] for task in tasks])
            span = f"{change.mean:+.2f} ({change.low:+.2f} to {change.high:+.2f}) over {change.count}"
            print(f"{name}  {key}  {span}")


def winner_lines(rows: Sequence[Row], kinds: Sequence[str]) -> list[str]:
    """The lines of WINNERS in `smoothtool/jobs/edit_choice.py` that these results support."""
    lines = [_line(kind.upper(), [row for row in rows if row["kind"] == kind]) for kind in kinds]
    lines.append(_line(ANY.upper(), rows))
    lines.append(_line(NO_SOURCE.upper().replace(" ", "_"), rows, lambda variant: variant[0] in WITHOUT_SOURCE))
    return [line for line in lines if line]


def _line(name: str, rows: Sequence[Row], fits: Callable[[Variant], bool] = lambda variant: True) -> str:
    best = winner(rows, fits)
    if best is None:
        return ""
    own = [row for row in rows if variant_of(row) == best]
    figures = f"{len(own)}, {_mean(own, 'inside_to_truth_psnr_db'):.1f}, {_mean(own, 'outside_psnr_db'):.1f}"
    settings = dict(part.split("=") for part in best[2].split())
    return f'    {name}: Winner("{best[0]}", "{best[1]}", {figures}{f", {settings}" if settings else ""}),'


def winner(rows: Sequence[Row], fits: Callable[[Variant], bool] = lambda variant: True) -> Variant | None:
    """The variant whose pictures are nearest to the true edit, of those that carried the edit out.

    Carried out: at least half of the CLIP score that the true edit has more than no edit. Near: PSNR of the whole
    picture, so that what should stay counts as well as what should change.
    """
    of: dict[Variant, list[Row]] = {}
    for row in rows:
        of.setdefault(variant_of(row), []).append(row)
    scores = {variant[0]: _mean(members, "clip_score") for variant, members in of.items() if variant[0] in BOUNDS}
    if len(scores) < len(BOUNDS):
        return None
    bar = fmean(scores.values())
    carried = {
        variant: _mean(members, "truth_psnr_db")
        for variant, members in of.items()
        if variant[0] not in BOUNDS and fits(variant) and (_mean(members, "clip_score") or 0) >= bar
    }
    return max(carried, key=lambda variant: carried[variant] or 0, default=None)


def _mean(rows: Sequence[Row], key: str) -> float | None:
    there = [row[key] for row in rows if row.get(key) is not None]
    return fmean(there) if there else None
