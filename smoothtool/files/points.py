"""Drag points and masks: from `points.json`, from DragBench's `meta_data.pkl`, checked against their picture."""

from __future__ import annotations

import io
import json
import math
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from smoothtool.errors import InputError, SmoothtoolError, UsageError
from smoothtool.files.images import load_image
from smoothtool.files.output import write_json_atomic
from smoothtool.types import DragPoints

LARGEST_FILE_BYTES = 256_000_000
"""A pickled mask of 8192 x 8192 pixels is 67 MB; anything far above is no such file."""
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
    if not path.is_file():
        raise InputError(f"{path}: there is no such file", "a points.json, or DragBench's meta_data.pkl")
    if path.stat().st_size > LARGEST_FILE_BYTES:
        raise InputError(f"{path}: the file is too large to hold points", "a points.json, or DragBench's meta_data.pkl")
    content = path.read_bytes()
    try:
        return _from_dragbench(content) if path.suffix in (".pkl", ".pickle") else item_from_json(content)
    except REFUSED as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path}: no drag points can be read from it ({reason})",
            'JSON such as {"points": [{"handle": [20, 32], "target": [40, 32]}]}, or DragBench\'s meta_data.pkl',
        ) from error


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

    file  where they came from; None: the command line
    Raises: UsageError (InputError for a file) when there are none, or one is not finite, outside, doubled, or already
    at its target.
    """
    problem = _problem(points, size_px)
    if problem:
        kind: type[SmoothtoolError] = UsageError if file is None else InputError
        what, hint = problem
        raise kind(f"{'--point' if file is None else file}: {what}", hint)


def load_mask(path: Path, size_px: tuple[int, int], *, fit: bool) -> np.ndarray:
    """Where the picture may change, bool [H, W]: what is light, or in a picture with transparency what is opaque.

    fit  resize a mask of another size than the picture's (width, height)
    Raises: InputError when it is no picture, of another size, or has nothing painted.
    """
    drawn = _drawn(path)
    if drawn.size != size_px:
        have, want = (f"{width}x{height}" for width, height in (drawn.size, size_px))
        if not fit:
            raise InputError(f"{path}: the mask is {have} px, the picture {want} px", "--fit-mask to resize the mask")
        drawn = drawn.resize(size_px, Image.Resampling.NEAREST)
    painted = np.asarray(drawn) >= PAINTED
    check_mask(painted, size_px, path)
    return painted


def _drawn(path: Path) -> Image.Image:
    """What a mask picture shows, as grey levels. An alpha channel that is opaque throughout says nothing."""
    picture = load_image(path)
    with Image.open(path) as opened:
        upright = ImageOps.exif_transpose(opened)
        alpha = upright.convert("RGBA").getchannel("A") if upright.has_transparency_data else None
    see_through = alpha is not None and int(np.asarray(alpha).min()) < PAINTED
    return alpha if alpha is not None and see_through else picture.convert("L")


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
    for handle, target in zip(points.handles_xy_px, points.targets_xy_px, strict=True):
        if handle == target:
            return f"the point {handle[0]:g},{handle[1]:g} is its own target", "a target somewhere else"
    if len(set(points.handles_xy_px)) < len(points):
        return "two handles are at the same place", "one target for each handle"
    return None


def item_from_json(content: bytes) -> DragItem:
    """The content of a `points.json`. Raises: one of `REFUSED`."""
    data = json.loads(content)
    rows = [[*_place(row["handle"]), *_place(row["target"])] for row in data["points"]]
    prompt = data.get("prompt", "")
    if not isinstance(prompt, str):
        raise ValueError("the prompt is not a text")
    return DragItem(points_from_numbers(rows), prompt=prompt)


def _from_dragbench(content: bytes) -> DragItem:
    """Handles and targets alternate; the mask is an array of 0 and 1."""
    data = _PlainUnpickler(io.BytesIO(content)).load()
    places = [_place(place) for place in data["points"]]
    rows = [[*handle, *target] for handle, target in zip(places[::2], places[1::2], strict=True)]
    mask = np.asarray(data["mask"])
    if mask.ndim != 2 or mask.dtype.kind not in "biuf":
        raise ValueError("the mask is not an array of numbers, height by width")
    return DragItem(points_from_numbers(rows), mask > 0, str(data["prompt"]))


def _place(pair: Any) -> tuple[float, float]:
    x, y = pair
    if any(isinstance(number, (bool, str)) for number in (x, y)):
        raise ValueError(f"{pair} is not a pair of numbers")
    return float(x), float(y)


class _PlainUnpickler(pickle.Unpickler):
    """Containers, numbers, text and numpy arrays of numbers; every other name in the file is refused unread."""

    def find_class(self, module: str, name: str) -> Any:
        home = module.replace("numpy._core.", "numpy.core.")
        if (home, name) in _KNOWN:
            return _KNOWN[home, name]
        raise pickle.UnpicklingError(f"{module}.{name} has no place among points")


def _empty_array(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """What numpy calls first for every pickled array; the values follow, checked by numpy against their shape."""
    if kind is not np.ndarray or tuple(shape) != (0,):
        raise pickle.UnpicklingError("an array of unusual form")
    return np.ndarray((0,), np.int8)


def _plain_dtype(code: Any, *flags: Any) -> np.dtype:
    kind = np.dtype(code)
    if kind.kind not in "biuf":
        raise pickle.UnpicklingError(f"an array of {kind}")
    return kind


def _number(kind: np.dtype, value: bytes) -> Any:
    return np.frombuffer(value, kind, count=1)[0]


def _array(buffer: Any, kind: np.dtype, shape: tuple[int, ...], order: Literal["C", "F"]) -> np.ndarray:
    """How protocol 5 writes arrays."""
    return np.frombuffer(buffer, kind).reshape(shape, order=order)


def _latin(text: str, encoding: str) -> bytes:
    """How protocol 2 writes bytes."""
    return text.encode("latin1")


_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy.core.multiarray", "scalar"): _number,
    ("numpy.core.numeric", "_frombuffer"): _array,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _plain_dtype,
    ("_codecs", "encode"): _latin,
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("builtins", "complex"): complex,
}
REFUSED = (
    pickle.UnpicklingError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, OverflowError,
    RecursionError, MemoryError, UnicodeError, ImportError,
)  # fmt: skip
"""What damaged or hostile JSON and pickles raise while they are read."""
