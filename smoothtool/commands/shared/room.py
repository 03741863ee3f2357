"""About how much a command leaves on the disk, known before any of it is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from smoothtool.errors import SmoothtoolError
from smoothtool.files.pictures.picture_sizes import upright_size_px
from smoothtool.jobs.notation import working_size
from smoothtool.weights.sample_pictures import resolve_picture

if TYPE_CHECKING:
    from smoothtool.jobs import Job

LEAST_BYTES = 1_000_000.0
"""Reports, recipes, and the rounding up of a disk's blocks."""
PIXEL_BYTES = 3
"""Of a PNG of noise; of what models make it is about half."""
PLAYED = 2
"""Sequences are written as frames, and again as videos, which together need less than the frames."""
PATH_FRAMES = 30
NULL_EMBEDS_BYTES = 77 * 1024 * 4
"""Of one step, for SD 2.x."""
RECORD_BYTES = 2_000
USUAL_SIDE_PX = 512
LARGEST_WORKED_ON_PX = 1024.0**2

Settings = Mapping[str, Any]


def room_bytes(job: Job) -> float:
    """What a job writes at most, roughly; of commands that write little, the least that is asked for."""
    settings = job.settings()
    return LEAST_BYTES + _ROOM.get(job.command, _little)(settings)


def _little(job: Settings) -> float:
    return 0.0


def _picture(job: Settings) -> float:
    """One picture at the size that was asked for, or its own."""
    return _pixels(job) * PIXEL_BYTES


def _worked_on(job: Settings) -> float:
    """One picture at its working size, which is near what the model knows unless a size was asked for."""
    return min(_pixels(job), float("inf") if job.get("size") else LARGEST_WORKED_ON_PX) * PIXEL_BYTES


def _pixels(job: Settings) -> float:
    size = working_size(job.get("size"))
    if isinstance(size, tuple):
        return float(size[0] * size[1])
    width, height = _own_size(job)
    return width * height * (1.0 if size is None else (size / max(width, height)) ** 2)


def _own_size(job: Settings) -> tuple[int, int]:
    name = job.get("image") or next(iter(job.get("images", ())), None)
    try:
        found = upright_size_px(resolve_picture(name)) if name else None
    except SmoothtoolError:  # an inversion file, or a name that is reported when it is opened
        found = None
    return found or (USUAL_SIDE_PX, USUAL_SIDE_PX)


def _edit(job: Settings) -> float:
    """Every edit, once alone and once on a sheet, beside before and after."""
    edits = 10 if job["compare"] else len(job["trg"]) * max(1, len(job["ratio"]))
    return edits * _picture(job) + (edits + 3) * _worked_on(job)


def _interpolate(job: Settings) -> float:
    pairs = max(1, len(job["images"]) - 1) + bool(job["loop"])
    return (pairs * (job["frames"] + 1) + 1) * PLAYED * _worked_on(job)


def _invert(job: Settings) -> float:
    """Two trajectories of latents in float32, each a third of the pictures' bytes or less; null embeddings."""
    if job["compare"]:
        return 12 * _worked_on(job)
    return (job["steps"] + 1) * (2 / 3 * _worked_on(job) + NULL_EMBEDS_BYTES) + 2 * _picture(job)


def _drag(job: Settings) -> float:
    return 3 * _picture(job) + PATH_FRAMES * _worked_on(job)


def _istd(job: Settings) -> float:
    return float((1 + bool(job["compare_lora"])) * job["n"] * RECORD_BYTES)


_ROOM: dict[str, Callable[[Settings], float]] = {
    "edit": _edit,
    "interpolate": _interpolate,
    "invert": _invert,
    "drag": _drag,
    "istd": _istd,
}
