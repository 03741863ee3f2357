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

from smoothtool.weights.sample_pictures import natural, sample_names

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif"}
INVERSIONS = {".safetensors"}
RESULTS = ("report.json", "batch.json")
"""A folder with one of these holds results, and is no folder of pictures to begin with."""


@dataclass(frozen=True)
class Picture:
    """One input: `text` as jobs take it, and `place`, its sub-folder and name below the root of all inputs."""

    text: str
    place: PurePosixPath


@dataclass(frozen=True)
class Found:
    """Pictures in natural order. `several`: asked for as several, even if there is one. `title` names them all."""

    pictures: tuple[Picture, ...]
    several: bool
    title: str


def find_pictures(texts: Sequence[str]) -> Found:
    """The pictures that these texts mean; a plain file need not exist, so that one missing file costs one item.

    Raises: ValueError when a folder or glob holds no picture.
    """
    several = len(texts) > 1 or any(text == "-" or _is_many(text) for text in texts)
    listed = [line for text in texts for line in (_lines_on_stdin() if text == "-" else [text])]
    found = [match for text in listed for match in _matches(text)]
    if not found:
        raise ValueError("is an empty list of pictures")
    roots = {root for _, root in found if root is not None}
    root = Path(os.path.commonpath(roots)) if roots else None
    title = root.name if root else "samples"
    return Found(tuple(Picture(name, _place(name, root)) for name, _ in found), several, title)


def _place(name: str, root: Path | None) -> PurePosixPath:
    if name.startswith("samples:"):
        return PurePosixPath(f"{name.removeprefix('samples:')}.png")
    path = _absolute(name)
    return PurePosixPath((path.relative_to(root) if root else Path(path.name)).as_posix())


def _absolute(text: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(text)))


def _is_many(text: str) -> bool:
    if text.startswith("samples:"):
        return glob.has_magic(text)
    path = Path(text).expanduser()
    return path.is_dir() or (glob.has_magic(text) and not path.exists())


def _matches(text: str) -> Iterator[tuple[str, Path | None]]:
    """(name, root) per picture; the root is the folder that its place is told from."""
    if text.startswith("samples:"):
        pattern = text.removeprefix("samples:")
        names = [name for name in sample_names() if fnmatch(name, pattern)] if _is_many(text) else [pattern]
        yield from ((f"samples:{name}", None) for name in names)
    elif not _is_many(text):
        names, root = [text], _absolute(text).parent
        yield text, root
    else:
        path = Path(text).expanduser()
        names = list(_in_folder(path) if path.is_dir() else _in_glob(text))
        root = _absolute(text) if path.is_dir() else _fixed_part(text)
        yield from ((name, root) for name in sorted(names, key=natural))
    if not names:
        raise ValueError(f"{text}: there is no picture")


def _in_folder(folder: Path) -> Iterator[str]:
    """Pictures at any depth; hidden ones, results of earlier runs and linked folders (which may loop) are left out."""
    for here, folders, files in os.walk(folder):
        if Path(here) != folder and any(name in files for name in RESULTS):
            folders.clear()
            continue
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in PICTURES:
                yield str(Path(here) / name)


def _in_glob(pattern: str) -> Iterator[str]:
    """Pictures and inversion files; one that a loop of links leads to again is named once, the shortest way."""
    seen: set[str] = set()
    for name in sorted(glob.glob(os.path.expanduser(pattern), recursive=True), key=lambda name: (len(name), name)):
        real = os.path.realpath(name)
        if Path(name).suffix.lower() in PICTURES | INVERSIONS and os.path.isfile(real) and real not in seen:
            seen.add(real)
            yield name


def _fixed_part(pattern: str) -> Path:
    """The folder before the first part with a wildcard."""
    parts = _absolute(pattern).parts
    magic = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:magic])


def _lines_on_stdin() -> list[str]:
    """One name a line, or separated by zero bytes as `find -print0` does."""
    text = os.fsdecode(sys.stdin.buffer.read())
    lines = text.split("\0") if "\0" in text else text.replace("\r\n", "\n").split("\n")
    return [line for line in lines if line.strip()]
