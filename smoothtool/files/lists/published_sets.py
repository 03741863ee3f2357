"""The published benchmarks' folders, as items: PIE-Bench's edits, MorphBench's pairs, DragBench's drags."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from smoothtool.errors import InputError
from smoothtool.readers.fields import Fields, read_fields
from smoothtool.readers.regular import is_regular

PIE_SIDE_PX = 512
PIE_HINT = "PIE-Bench's folder, with mapping_file.json and annotation_images beside each other"
MORPH_HINT = "MorphBench's folder, with Metamorphosis/NAME_0.png and NAME_1.png, and Animation likewise"
MORPH_KINDS = ("Metamorphosis", "Animation")


@dataclass(frozen=True)
class PieItem:
    """One edit of PIE-Bench (Ju et al. 2024, arXiv:2310.01506).

    mask   bool [512, 512], True inside the part that is edited; its border counts as edited, as the benchmark has it
    blend  the words of source and target that local blending masks by, or none
    """

    key: str
    picture: Path
    source: str
    target: str
    instruction: str
    kind: str
    blend: tuple[str, str] | None
    mask: np.ndarray


@dataclass(frozen=True)
class MorphPair:
    """Two pictures of MorphBench (Zhang et al. 2024, arXiv:2312.07409) that are walked between."""

    key: str
    kind: str
    pictures: tuple[Path, Path]


def read_pie_bench(folder: Path) -> list[PieItem]:
    """All items in the order of their keys.

    Raises: InputError when the list is missing or damaged, or names a picture that is not there.
    """
    rows = read_fields(folder / "mapping_file.json", hint=PIE_HINT)
    items = [_pie_item(folder, key, rows.fields(key)) for key in sorted(rows.values)]
    if not items:
        raise InputError(f"{folder / 'mapping_file.json'}: lists no items", PIE_HINT)
    return items


def _pie_item(folder: Path, key: str, row: Fields) -> PieItem:
    picture = folder / "annotation_images" / row.text("image_path")
    inside = picture.resolve().is_relative_to(folder.resolve())
    if not inside or not picture.is_file():
        reason = "is not in the benchmark's folder" if not inside else "is missing"
        raise InputError(f"{row.place}: image_path {row.text('image_path')} {reason}", PIE_HINT)
    words = row.text("blended_word", "").split()
    if len(words) not in (0, 2):
        raise row.wrong("blended_word", "a word of each prompt, or empty")
    return PieItem(
        key=key,
        picture=picture,
        source=plain_prompt(row.text("original_prompt")),
        target=plain_prompt(row.text("editing_prompt")),
        instruction=row.text("editing_instruction", ""),
        kind=row.text("editing_type_id"),
        blend=(words[0], words[1]) if words else None,
        mask=decode_mask(row.wholes("mask"), row.place),
    )


def plain_prompt(text: str) -> str:
    """A prompt without the brackets around the words that change."""
    return " ".join(text.replace("[", "").replace("]", "").split())


def decode_mask(runs: Sequence[int], place: str, side_px: int = PIE_SIDE_PX) -> np.ndarray:
    """bool [side, side] from flat pairs of start and length, row by row; runs are cut at the end; the border is True.

    Raises: InputError, naming `place`, for half a pair or a negative number.
    """
    if len(runs) % 2 or any(number < 0 for number in runs):
        raise InputError(f"{place}: mask is no list of pairs of start and length", PIE_HINT)
    flat = np.zeros(side_px * side_px, dtype=bool)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        flat[start : start + length] = True
    mask = flat.reshape(side_px, side_px)
    mask[[0, -1], :] = mask[:, [0, -1]] = True
    return mask


def read_morph_bench(folder: Path) -> list[MorphPair]:
    """All pairs, Metamorphosis first, each kind by name.

    Raises: InputError when there are none, or one picture of a pair is missing.
    """
    pairs = [pair for kind in MORPH_KINDS for pair in _morph_pairs(folder / kind, kind)]
    if not pairs:
        raise _nothing(folder, "no pairs in MorphBench's layout", MORPH_HINT)
    return pairs


def _morph_pairs(folder: Path, kind: str) -> list[MorphPair]:
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.glob("*_[01].png")):
        found.setdefault(path.stem[:-2], {})[path.stem[-1]] = path
    for name, ends in found.items():
        if len(ends) != 2:
            (there,) = ends.values()
            raise InputError(f"{there}: the other picture of the pair {name} is missing", MORPH_HINT)
    return [MorphPair(f"{kind}/{name}", kind, (ends["0"], ends["1"])) for name, ends in found.items()]


@dataclass(frozen=True)
class DragBenchItem:
    """One picture of DragBench and the file with its points, mask and prompt, as `read_points` reads it."""

    key: str
    picture: Path
    points: Path


def read_drag_bench(folder: Path) -> list[DragBenchItem]:
    """Every folder below with a meta_data.pkl and an original_image.png, by name.

    Raises: InputError when there is none.
    """
    found = sorted(path.parent for path in folder.rglob("meta_data.pkl"))
    pairs = [(item, item / "original_image.png") for item in found]
    items = [
        DragBenchItem(item.relative_to(folder).as_posix(), picture, item / "meta_data.pkl")
        for item, picture in pairs
        if is_regular(picture)
    ]
    if not items:
        raise _nothing(
            folder, "no items in DragBench's layout", "folders with original_image.png and meta_data.pkl in each"
        )
    return items


def _nothing(folder: Path, what: str, hint: str) -> InputError:
    return InputError(f"{folder}: {what if folder.is_dir() else 'there is no such folder'}", hint)
