"""Which pictures are meant: files, folders, globs, `samples:*`, or a list on stdin.

Each keeps its place below the folder that all have in common, so that results can lie in the same sub-folders.
"""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from smoothtool.errors import InputError
from smoothtool.files.pictures.formats import is_picture, is_unreadable_picture, left_out
from smoothtool.files.storage.folders import Below
from smoothtool.readers.regular import at_home
from smoothtool.readers.text import MARKS, decode_text
from smoothtool.weights.sample_pictures import natural, sample, sample_name, sample_names

INVERSIONS = {".safetensors"}
LARGEST_LIST_BYTES = 50_000_000


@dataclass(frozen=True)
class Picture:
    """One input: `text` as jobs take it, and `place`, its sub-folder and name below the root of all inputs."""

    text: str
    place: PurePosixPath


@dataclass(frozen=True)
class Found:
    """Pictures in natural order.

    several  asked for as several, even if there is one
    title    names them all
    notes    what was found beside them and left out, a line each
    """

    pictures: tuple[Picture, ...]
    several: bool
    title: str
    notes: tuple[str, ...] = ()


def find_pictures(texts: Sequence[str]) -> Found:
    """The pictures that these texts mean; a plain file need not exist, so that one missing file costs one item.

    Raises: ValueError when a folder or glob holds no picture.
    """
    several = len(texts) > 1 or any(text == "-" or _is_many(text) for text in texts)
    listed = [line for text in texts for line in (_lines_on_stdin() if text == "-" else [text])]
    notes: list[str] = []
    found = [match for text in listed for match in _matches(text, notes)]
    if not found:
        raise ValueError("is an empty list of pictures")
    roots = {root for _, root in found if root is not None}
    root = Path(os.path.commonpath(roots)) if roots else None
    title = root.name if root else "samples"
    pictures = tuple(Picture(name, _place(name, root)) for name, _ in found)
    return Found(pictures, several, title, tuple(dict.fromkeys(notes)))


def pictures_directly_in(folder: str) -> tuple[list[Path], str]:
    """The pictures of a folder without its sub-folders, in natural order, and a line about those that are not read.

    Raises: InputError when there is no such folder, it cannot be read, or no picture is in it.
    """
    place = at_home(folder)
    if os.path.isfile(place):
        raise InputError(f"{folder}: this is a file, and pictures are measured by folders", "the folder it lies in")
    try:
        found = [path for path in place.iterdir() if not path.name.startswith(".")]
    except (OSError, ValueError) as error:
        why = "there is no such folder" if not os.path.isdir(place) else f"cannot be read ({error})"
        raise InputError(f"{folder}: {why}", "check the path") from error
    paths = sorted(filter(is_picture, found), key=lambda path: natural(path.name))
    others = left_out(path.name for path in found if is_unreadable_picture(path))
    if not paths:
        why = "; ".join(filter(None, ["there are no pictures in this folder", others]))
        raise InputError(f"{folder}: {why}", "a folder with png, jpg or webp files")
    return paths, others


def _place(name: str, root: Path | None) -> PurePosixPath:
    if (sample := sample_name(name)) is not None:
        return PurePosixPath(f"{sample}.png")
    path = _absolute(name)
    return PurePosixPath((path.relative_to(root) if root else Path(path.name)).as_posix())


def _absolute(text: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(text)))


def _is_many(text: str) -> bool:
    if sample_name(text) is not None:
        return glob.has_magic(text)
    path = at_home(text)
    return os.path.isdir(path) or (glob.has_magic(text) and not os.path.exists(path))


def _matches(text: str, notes: list[str]) -> Iterator[tuple[str, Path | None]]:
    """(name, root) per picture; the root is the folder that its place is relative to."""
    if (pattern := sample_name(text)) is not None:
        names = [name for name in sample_names() if fnmatch(name, pattern)] if _is_many(text) else [pattern]
        yield from ((sample(name), None) for name in names)
    elif not _is_many(text):
        names, root = [text], _absolute(text).parent
        yield text, root
    else:
        is_folder = os.path.isdir(at_home(text))
        below = Below(at_home(text))
        found = list(below if is_folder else _in_glob(text))
        names = [name for name in found if is_picture(name) or (not is_folder and _is_inversion(name))]
        notes += [*below.problems, *filter(None, [left_out(filter(is_unreadable_picture, found))])]
        root = _absolute(text) if is_folder else _fixed_part(text)
        yield from ((name, root) for name in sorted(names, key=natural))
    if not names:
        raise ValueError("; ".join([f"{text}: there is no picture", *notes]))


def _is_inversion(name: str) -> bool:
    return Path(name).suffix.lower() in INVERSIONS


def _in_glob(pattern: str) -> Iterator[str]:
    """Files that match; those of a folder that a loop of links leads to again are named once, the shortest way."""
    seen: set[tuple[str, str]] = set()
    names = glob.glob(os.path.expanduser(pattern), recursive=True)
    for name in sorted(names, key=lambda name: (len(name), name)):
        folder, base = os.path.split(name)
        place = (os.path.realpath(folder), base)
        if place not in seen and not os.path.isdir(name):
            seen.add(place)
            yield name


def _fixed_part(pattern: str) -> Path:
    """The folder before the first part with a wildcard."""
    parts = _absolute(pattern).parts
    magic = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:magic])


def _lines_on_stdin() -> list[str]:
    """One name a line, or separated by zero bytes as `find -print0` does; of any program that marks its encoding.

    Raises: ValueError when there is no end to it, or it cannot be read.
    """
    try:
        content = sys.stdin.buffer.read(LARGEST_LIST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"-: stdin cannot be read ({error.strerror})") from error
    if len(content) > LARGEST_LIST_BYTES:
        raise ValueError(f"-: is a list of over {LARGEST_LIST_BYTES // 1_000_000} MB, too long to be meant")
    text = decode_text(content, "-") if content.startswith(MARKS) else os.fsdecode(content)
    lines = text.split("\0") if "\0" in text else text.replace("\r\n", "\n").split("\n")
    return [line for line in lines if line.strip()]
