"""Folders of results: whole or absent, checked before any computation, and nobody's files are lost."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from smoothtool.errors import StorageError, UsageError, storage_error
from smoothtool.files.storage.exchange import put_back, replace_folder
from smoothtool.files.storage.leftovers import is_leftover, sweep_leftovers, temporary_folder

REPORT = "report.json"
LONGEST_NAME_BYTES = 255
"""Of one part of a path, on the file systems of Linux, macOS and Windows."""
MovedOn = Callable[[Path], Path]
"""The finished folder, whose place another process has taken -> where it goes instead."""


def results_folder(root: Path) -> Path:
    """The absolute path of a folder for results, with links followed.

    Raises: UsageError for what can be no folder: too long, a loop of links, an unknown user's home, a zero byte.
    """
    try:
        folder = root.expanduser().resolve()
        folder.exists()
        if any(len(os.fsencode(part)) > LONGEST_NAME_BYTES for part in folder.parts):
            raise ValueError("File name too long")  # where nothing of the path is there yet
    except (OSError, RuntimeError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"{root}: this cannot be a folder ({why})", "another folder with -o") from error
    return folder


def output_folder(root: Path, *, force: bool, known_by: str = REPORT) -> Path:
    """The absolute folder that results will go to, checked before any computation; creates nothing.

    Raises: UsageError when it holds files and `force` is off, or when it holds files that are not a result of
    smoothtool (`force` replaces the whole folder, which must never be someone's picture collection); StorageError when
    it cannot be written.
    """
    folder = results_folder(root)
    with suppress(OSError):
        put_back(folder)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{root}: there is a file of that name", "another folder with -o")
    if folder.is_dir():
        check_writable(folder, root)
        _check_replaceable(folder, root, force, known_by)
    if not _is_filled_inside(folder):
        check_writable(folder.parent, root)
    return folder


def free_space_check(folder: Path, needed_bytes: float) -> None:
    """Raises: StorageError when the disk that holds `folder` (which need not exist yet) has less room than needed."""
    free = shutil.disk_usage(_nearest_existing(results_folder(folder))).free
    if free < needed_bytes:
        have, need = (f"{count / 1e6:.1f} MB" for count in (free, needed_bytes))
        raise StorageError(
            f"{folder}: the disk has {have} free, about {need} are needed", "-o on another disk", full=True
        )


@contextmanager
def new_folder(path: Path, force: bool, moved_on: MovedOn | None = None, known_by: str = REPORT) -> Iterator[Path]:
    """Fill the folder handed out; it becomes `path` at the end, and is gone after any exception, Ctrl-C included.

    With `force` an earlier result, which has a file `known_by`, stays in place until the new one is complete.
    moved_on  for a name that nobody chose: finished work goes elsewhere when another process took the name meanwhile
    Raises: UsageError and StorageError as `output_folder` does, or when another process filled `path` meanwhile.
    """
    folder = output_folder(path, force=force, known_by=known_by)
    with ExitStack() as stack:
        try:
            beside = folder / "part" if _is_filled_inside(folder) else folder
            sweep_leftovers(beside.parent)
            temporary = stack.enter_context(temporary_folder(beside))
        except OSError as error:
            raise storage_error(path, error) from error
        try:
            yield temporary
        except StorageError as error:  # nobody but us knows the folder by its name for work in progress
            raise StorageError(error.what.replace(str(temporary), str(path)), error.hint, full=error.full) from error
        while True:
            try:
                _take_place(temporary, folder, path, force, known_by)
                return
            except UsageError:
                if moved_on is None:
                    raise
                path = folder = moved_on(temporary).absolute()


def create_folder(path: Path, moved_on: Callable[[], Path] | None = None) -> Path:
    """Make a folder that is filled where it is, because a later run may go on in it.

    moved_on  for a name that nobody chose: another one when a process has taken it meanwhile
    Raises: StorageError.
    """
    while True:
        try:
            path.mkdir(parents=True, exist_ok=moved_on is None)
            return path
        except FileExistsError as error:
            if moved_on is None:
                raise storage_error(path, error) from error
            path = moved_on()
        except OSError as error:
            raise storage_error(path, error) from error


def _take_place(new: Path, folder: Path, typed: Path, force: bool, known_by: str) -> None:
    try:
        if _is_filled_inside(folder):
            _check_replaceable(folder, typed, force, known_by)
            for part in sorted(new.iterdir(), key=lambda part: part.name == known_by):
                os.rename(part, folder / part.name)
        elif folder.exists() and _content(folder):
            _check_replaceable(folder, typed, force, known_by)
            replace_folder(new, folder)
        else:
            os.rename(new, folder)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise _not_empty(typed) from error
        raise storage_error(typed, error) from error


def _is_filled_inside(folder: Path) -> bool:
    """Whether a folder must stay the one it is: somebody is in it, a disk begins there, or its place is not ours."""
    if not folder.is_dir():
        return False
    with suppress(OSError):  # somebody has deleted the folder this process is in
        if folder == Path.cwd():
            return True
    return os.path.ismount(folder) or not os.access(folder.parent, os.W_OK | os.X_OK)


def _content(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not is_leftover(path)]


def _check_replaceable(folder: Path, typed: Path, force: bool, known_by: str) -> None:
    if not _content(folder):
        return
    if not force:
        raise _not_empty(typed)
    check_movable(folder, typed)
    if not (folder / known_by).is_file():
        raise UsageError(
            f"{typed}: --force replaces results only, and this folder has no {known_by}", "another folder with -o"
        )


def check_movable(folder: Path, typed: Path) -> None:
    """Raises: UsageError when another folder cannot take its place."""
    if _is_filled_inside(folder):
        raise UsageError(
            f"{typed}: --force cannot replace the folder you are in, nor one where a disk begins",
            "another folder with -o",
        )


def _not_empty(typed: Path) -> UsageError:
    return UsageError(f"{typed}: the folder is not empty", "--force to replace it, or another folder with -o")


def check_writable(folder: Path, typed: Path) -> None:
    """Whether something can be made in a folder, which need not exist yet. Raises: UsageError and StorageError."""
    existing = _nearest_existing(folder)
    if not existing.is_dir():
        raise UsageError(f"{typed}: {existing} is a file, not a folder", "another folder with -o")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise StorageError(f"{typed}: {existing} cannot be written to", "another folder with -o")


def _nearest_existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.exists())
