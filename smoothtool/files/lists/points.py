"""Drag points and masks: from `points.json`, from DragBench's `meta_data.pkl`, checked against their picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from smoothtool.errors import InputError, SmoothtoolError, UsageError
from smoothtool.files.pictures.images import load_mask_levels
from smoothtool.files.storage.writing import write_json_atomic
from smoothtool.readers.fields import Fields, as_fields, parse_json
from smoothtool.readers.pickles import parse_pickle
from smoothtool.readers.regular import read_regular
from smoothtool.types import DragPoints

LARGEST_FILE_BYTES = 256_000_000
"""A pickled mask of 8192 x 8192 pixels is 67 MB; anything far above is no such file."""
HINT = 'JSON such as {"points": [{"handle": [20, 32], "target": [40, 32]}]}, or DragBench\'s meta_data.pkl'
PICKLES = (".pkl", ".pickle")
"""DragBench's own files, read without running what is in them."""
PAINTED = 128
"""Grey level from which on a mask pixel counts as painted."""


@dataclass(frozen=True)
class DragItem:
    """What a points file holds: the points, the mask bool [H, W] (True may change) or None, and the prompt."""

    points: DragPoints
    mask: np.ndarray | None = None
    prompt: str = ""


def read_points(path: Path) -> DragItem:
    """A `points.json` of ours, or a `meta_data.pkl` of DragBench.

    Raises: InputError when it is missing, damaged, or holds something else; no code in a pickle is ever run.
    """
    content = read_regular(path, limit_bytes=LARGEST_FILE_BYTES, hint=HINT)
    if path.suffix.lower() in PICKLES:
        return _from_dragbench(content, str(path))
    return item_from_json(content, str(path))


def write_points(path: Path, points: DragPoints, prompt: str = "") -> None:
    """Write `points.json`."""
    pairs = zip(points.handles_xy_px, points.targets_xy_px, strict=True)
    rows = [{"handle": list(handle), "target": list(target)} for handle, target in pairs]
    write_json_atomic(path, {"points": rows, **({"prompt": prompt} if prompt else {})})


def points_from_numbers(rows: Sequence[Sequence[float]]) -> DragPoints:
    """Rows of handle x, handle y, target x, target y."""
    return DragPoints(tuple((row[0], row[1]) for row in rows), tuple((row[2], row[3]) for row in rows))


def check_points(points: DragPoints, size_px: tuple[int, int], file: Path | None = None) -> None:
    """Refuse points that cannot be meant for a picture of that (width, height).

    file  where they came from; None: the command line. DragBench's own have doubled points and some that are already
          at their target, which count in its figures: they are taken as they are
    Raises: UsageError (InputError for a file) when there are none, or one is not finite, outside, doubled, or already
    at its target.
    """
    published = file is not None and file.suffix.lower() in PICKLES
    problem = _problem(points, size_px) or (None if published else _pointless(points))
    if problem:
        kind: type[SmoothtoolError] = UsageError if file is None else InputError
        what, hint = problem
        raise kind(f"{'--point' if file is None else file}: {what}", hint)


def load_mask(path: Path, size_px: tuple[int, int], *, fit: bool) -> np.ndarray:
    """Where the picture may change, bool [H, W]: what is light, or in a picture with transparency what is opaque.

    fit  resize a mask of another size than the picture's (width, height)
    Raises: InputError when it is no picture, of another size, or has nothing painted.
    """
    drawn = load_mask_levels(path, see_through=PAINTED)
    if drawn.size != size_px:
        have, want = (f"{width}x{height}" for width, height in (drawn.size, size_px))
        if not fit:
            raise InputError(f"{path}: the mask is {have} px, the picture {want} px", "--fit-mask to resize the mask")
        drawn = drawn.resize(size_px, Image.Resampling.NEAREST)
    painted = np.asarray(drawn) >= PAINTED
    check_mask(painted, size_px, path)
    return painted


def check_mask(mask: np.ndarray, size_px: tuple[int, int], path: Path) -> None:
    """Raises: InputError when the mask is of another size, or empty."""
    if mask.shape != size_px[::-1]:
        raise InputError(
            f"{path}: the mask is {mask.shape[1]}x{mask.shape[0]} px, the picture {size_px[0]}x{size_px[1]} px"
        )
    if not mask.any():
        raise InputError(f"{path}: nothing is painted in the mask", "paint in white what may change")


def _problem(points: DragPoints, size_px: tuple[int, int]) -> tuple[str, str] | None:
    """What is wrong, and what to try."""
    if not len(points):
        return "there are no points to drag", "--point 20,32:40,32, or --pick to click them"
    for x, y in (*points.handles_xy_px, *points.targets_xy_px):
        if not (math.isfinite(x) and math.isfinite(y)):
            return f"{x:g},{y:g} is not a place", "numbers such as 20,32:40,32"
        if not (0 <= x < size_px[0] and 0 <= y < size_px[1]):
            return (
                f"{x:g},{y:g} is outside the picture of {size_px[0]}x{size_px[1]} px",
                "x from the left, y from the top",
            )
    return None


def _pointless(points: DragPoints) -> tuple[str, str] | None:
    """What moves nothing, or cannot be at two places, and what to try."""
    for handle, target in zip(points.handles_xy_px, points.targets_xy_px, strict=True):
        if handle == target:
            return f"the point {handle[0]:g},{handle[1]:g} is its own target", "a target somewhere else"
    if len(set(points.handles_xy_px)) < len(points):
        return "two handles are at the same place", "one target for each handle"
    return None


def item_from_json(content: bytes, place: str) -> DragItem:
    """The content of a `points.json` that came from `place`. Raises: InputError."""
    data = as_fields(parse_json(content, place, hint=HINT, once=True), place, hint=HINT)
    pairs = [as_fields(row, f"{place}: points[{at}]", hint=HINT) for at, row in enumerate(data.items("points"))]
    rows = [[*_position(pair, "handle"), *_position(pair, "target")] for pair in pairs]
    return DragItem(points_from_numbers(rows), prompt=data.text("prompt", ""))


def _from_dragbench(content: bytes, place: str) -> DragItem:
    """Handles and targets alternate; the mask is an array of 0 and 1, height by width."""
    data = as_fields(parse_pickle(content, place, hint=HINT), place, hint=HINT)
    found = _plain_list(data.values.get("points"))
    if not isinstance(found, list) or len(found) % 2:
        raise data.wrong("points", "an even list of places, handle and target by turns")
    named = as_fields({f"points[{at}]": _plain_list(pair) for at, pair in enumerate(found)}, place, hint=HINT)
    places = [_position(named, key) for key in named.values]
    rows = [[*handle, *target] for handle, target in zip(places[::2], places[1::2], strict=True)]
    mask = data.values.get("mask")
    mask = np.asarray(mask) if _is_grid(mask) else mask
    if not isinstance(mask, np.ndarray) or mask.ndim != 2:
        raise data.wrong("mask", "an array of numbers, height by width")
    return DragItem(points_from_numbers(rows), mask > 0, data.text("prompt"))


def _plain_list(value: Any) -> Any:
    """Lists, tuples and arrays as a list; anything else as it is."""
    return value.tolist() if isinstance(value, np.ndarray) else list(value) if isinstance(value, tuple) else value


def _is_grid(value: Any) -> bool:
    """Whether these are lists of numbers, all of one length."""
    return (
        isinstance(value, list)
        and all(isinstance(row, list) and all(isinstance(one, (int, float)) for one in row) for row in value)
        and len({len(row) for row in value}) == 1
    )


def _position(fields: Fields, key: str) -> tuple[float, float]:
    """A place [x, y]; whether it lies inside the picture, and is finite, is asked with the picture at hand."""
    pair = fields.values.get(key)
    if not isinstance(pair, list) or len(pair) != 2:
        raise fields.wrong(key, "a pair of numbers [x, y]")
    if any(isinstance(one, bool) or not isinstance(one, (int, float)) or abs(one) > 1e300 for one in pair):
        raise fields.wrong(key, "a pair of numbers [x, y]")
    return float(pair[0]), float(pair[1])
