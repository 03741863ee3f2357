"""Names for work in progress, beside the place it will take: hidden, locked by its process, swept when that is gone."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

try:
    import fcntl
except ImportError:  # Windows, where leftovers are recognised by their age alone
    fcntl = None  # type: ignore[assignment]

LEFTOVER = re.compile(r"\.[0-9a-f]{12}\.part(\.\w+)?")
LEFTOVER_AGE_S = 24 * 3600.0
HOST = hashlib.sha256(platform.node().encode()).hexdigest()[:4]
"""How our names begin: a lock that a process on another machine holds may not be seen from here."""


@contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """An empty file beside `path` with its suffix and the usual rights; what is still there at the end is removed.

    Raises: OSError when it cannot be made.
    """
    temporary, lock = _made(path, path.suffix, _make_file)
    try:
        yield temporary
    finally:
        _let_go(lock)
        temporary.unlink(missing_ok=True)


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """An empty folder beside `path`, made with its parents; what is still there at the end is removed.

    Raises: OSError when it cannot be made.
    """
    missing = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        temporary, lock = _made(path, "", Path.mkdir)
        try:
            yield temporary
        finally:
            _let_go(lock)
            shutil.rmtree(temporary, ignore_errors=True)
    finally:
        for parent in missing:
            with suppress(OSError):  # something lies in it
                parent.rmdir()


@contextmanager
def moved_beside(folder: Path, other: Path) -> Iterator[Path]:
    """A finished folder under a name for work in progress beside another; what is there at the end is removed.

    Raises: OSError.
    """
    with held(folder):
        temporary = _name_beside(other, "")
        os.rename(folder, temporary)
        yield temporary
    shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """The lock of a file or folder, where locks work.

    Raises: BlockingIOError when another process holds it, OSError when there is nothing of that name.
    """
    lock = _locked(path)
    try:
        yield
    finally:
        _let_go(lock)


def sweep_leftovers(folder: Path, *, deep: bool = False, before: float | None = None) -> None:
    """Remove what killed runs left in a folder.

    Of this machine's, what no process holds; of others, what has not changed for a day.
    deep    in folders below too: for folders that are smoothtool's own
    before  seconds since 1970 of the last change, instead of a day ago
    What cannot be looked at or removed stays: it may be someone else's.
    """
    before = time.time() - LEFTOVER_AGE_S if before is None else before
    for path in list(folder.glob("**/.*.part*" if deep else ".*.part*")):
        with suppress(OSError):
            if LEFTOVER.fullmatch(path.name) and not path.is_symlink():
                _sweep(path, before)


def is_leftover(path: Path) -> bool:
    """Whether the name is one of work in progress, or broken off."""
    return LEFTOVER.fullmatch(path.name) is not None


def _sweep(path: Path, before: float) -> None:
    lock = _locked(path) if path.name.startswith(f".{HOST}") else None
    try:
        if lock is not None or _changed_at(path) < before:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    finally:
        _let_go(lock)


def _made(path: Path, suffix: str, make: Callable[[Path], None]) -> tuple[Path, int | None]:
    """Something new beside `path`, and its lock."""
    while True:
        temporary = _name_beside(path, suffix)
        make(temporary)
        try:
            return temporary, _locked(temporary)
        except (BlockingIOError, FileNotFoundError):  # swept by another process in the moment before it was held
            continue


def _name_beside(path: Path, suffix: str) -> Path:
    """In the same folder, so that renaming stays on one disk, and short whatever the length of the name."""
    return path.with_name(f".{HOST}{uuid4().hex[:8]}.part{suffix}")


def _make_file(path: Path) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))


def _locked(path: Path) -> int | None:
    """A descriptor that holds the lock of a file or folder; None where locks do not work.

    The operating system gives the lock back when the process dies, however it dies.
    Raises: BlockingIOError when another process holds it, FileNotFoundError when there is nothing of that name.
    """
    if fcntl is None:
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), os.stat(path)):
            raise FileNotFoundError(path)
    except (BlockingIOError, FileNotFoundError):
        os.close(descriptor)
        raise
    except OSError:  # a network disk without locks
        os.close(descriptor)
        return None
    return descriptor


def _let_go(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


def _changed_at(path: Path) -> float:
    """Seconds since 1970 of the last change of a file, or of anything in a folder; being renamed counts."""
    stats = [place.lstat() for place in (path, *path.rglob("*"))]
    return max(max(stat.st_mtime, stat.st_ctime) for stat in stats)
