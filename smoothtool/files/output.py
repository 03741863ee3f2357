"""Files and folders that are either whole or absent: written beside their place under another name, then renamed."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from numbers import Integral, Real
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

from smoothtool.errors import UsageError
from smoothtool.yaml12 import Dumper

LEFTOVER = re.compile(r"\.[0-9a-f]{12}\.part(\.\w+)?")
LEFTOVER_AGE_S = 24 * 3600.0


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Write to the path handed out; it takes the place of `path` at the end, and is gone after any exception."""
    temporary = _sibling(path, path.suffix)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text_atomic(path: Path, text: str | Iterable[str]) -> None:
    """UTF-8, whole or part by part; undecodable bytes of a command line (lone surrogates) become question marks."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for part in [text] if isinstance(text, str) else text:
            file.write(part.encode("utf-8", errors="replace"))


def write_json_atomic(path: Path, data: Any) -> None:
    """Indented JSON that every parser reads: what is not finite becomes null."""
    write_text_atomic(path, json.dumps(plain(data), indent=2, allow_nan=False) + "\n")


def write_yaml(path: Path, data: Any) -> None:
    """Block-style YAML in the order given, read alike by YAML 1.1 and 1.2 parsers."""
    text = yaml.dump(plain(data), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=110)
    write_text_atomic(path, text)


def plain(data: Any) -> Any:
    """Dicts, lists, text, numbers, booleans and None alone; paths become text, non-finite numbers None.

    Raises: TypeError for anything else, so that a tensor or an object never lands in a report by accident.
    """
    if data is None or isinstance(data, (bool, str)):
        return data
    if isinstance(data, Integral):
        return int(data)
    if isinstance(data, Real):
        return float(data) if math.isfinite(data) else None
    if isinstance(data, Path):
        return str(data)
    if isinstance(data, dict):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [plain(value) for value in data]
    raise TypeError(f"a {type(data).__name__} cannot be written as plain data")


def output_folder(root: Path, *, force: bool) -> Path:
    """The absolute folder that results will go to, checked before any computation; creates nothing.

    Raises: UsageError when it holds files and `force` is off, when it holds files that are not a result of smoothtool
    (`force` replaces the whole folder, which must never be someone's picture collection), or cannot be written.
    """
    try:
        folder = root.expanduser().resolve()
        folder.exists()
    except (OSError, RuntimeError, ValueError) as error:  # too long, a loop of links, a zero byte
        raise UsageError(f"{root}: this cannot be a folder ({error})", "another folder with -o") from error
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{root}: there is a file of that name", "another folder with -o")
    _check_writable(folder.parent, root)
    if folder.is_dir():
        _check_writable(folder, root)
        _check_replaceable(folder, root, force)
    return folder


def free_space_check(folder: Path, needed_bytes: int) -> None:
    """Raises: UsageError when the disk that holds `folder` (which need not exist yet) has less room than needed."""
    free = shutil.disk_usage(_nearest_existing(folder.resolve())).free
    if free < needed_bytes:
        have, need = (f"{count / 1e6:.0f} MB" for count in (free, needed_bytes))
        raise UsageError(f"{folder}: the disk has {have} free, {need} are needed", "-o on another disk")


@contextmanager
def new_folder(path: Path, force: bool) -> Iterator[Path]:
    """Fill the folder handed out; it becomes `path` at the end, and is gone after any exception, Ctrl-C included.

    With `force` an earlier result stays in place until the new one is complete.
    Raises: UsageError as `output_folder` does, or when another process filled `path` meanwhile.
    """
    folder = output_folder(path, force=force)
    sweep_leftovers(folder.parent)
    temporary = _sibling(folder, "")
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"{path}: cannot be created ({error.strerror})", "another folder with -o") from error
    try:
        yield temporary
        _take_place(temporary, folder, path, force)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _take_place(new: Path, folder: Path, typed: Path, force: bool) -> None:
    if not folder.exists():
        os.rename(new, folder)
        return
    _check_replaceable(folder, typed, force)
    if not any(folder.iterdir()):  # it may be somebody's working directory, which must not be renamed away
        for part in sorted(new.iterdir(), key=lambda part: part.name == "report.json"):
            os.rename(part, folder / part.name)
        new.rmdir()
        return
    old = _sibling(folder, "")
    os.rename(folder, old)
    try:
        os.rename(new, folder)
    except BaseException:
        os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _check_replaceable(folder: Path, typed: Path, force: bool) -> None:
    if not any(folder.iterdir()):
        return
    if not force:
        raise UsageError(f"{typed}: the folder is not empty", "--force to replace it, or another folder with -o")
    if folder == Path.cwd():
        raise UsageError(f"{typed}: --force cannot replace the folder you are in", "another folder with -o")
    if not (folder / "report.json").is_file():
        raise UsageError(
            f"{typed}: --force replaces results only, and this folder has no report.json", "another folder with -o"
        )


def _check_writable(folder: Path, typed: Path) -> None:
    existing = _nearest_existing(folder)
    if not existing.is_dir():
        raise UsageError(f"{typed}: {existing} is a file, not a folder", "another folder with -o")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UsageError(f"{typed}: {existing} cannot be written to", "another folder with -o")


def _nearest_existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())


def _sibling(path: Path, suffix: str) -> Path:
    """Hidden, in the same folder (so that renaming stays on one disk), and short whatever the length of the name."""
    return path.with_name(f".{uuid4().hex[:12]}.part{suffix}")


def sweep_leftovers(folder: Path, *, deep: bool = False, before: float | None = None) -> None:
    """Remove what killed runs left in a folder: names of `_sibling` in which nothing has changed for a day.

    deep    in folders below too: for folders that are smoothtool's own
    before  seconds since 1970 of the last change, instead of a day ago
    What cannot be looked at or removed stays: it may be someone else's.
    """
    before = time.time() - LEFTOVER_AGE_S if before is None else before
    for path in list(folder.glob("**/.*.part*" if deep else ".*.part*")):
        with suppress(OSError):
            if LEFTOVER.fullmatch(path.name) and _changed_at(path) < before:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _changed_at(path: Path) -> float:
    """Seconds since 1970 of the last change of a file, or of anything in a folder; being renamed counts."""
    stats = [place.lstat() for place in (path, *path.rglob("*"))]
    return max(max(stat.st_mtime, stat.st_ctime) for stat in stats)
