"""Regular files alone: a pipe would block for ever, a device never ends, and a folder holds no bytes."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from smoothtool.errors import InputError, SmoothtoolError

_KINDS = (
    (stat.S_ISDIR, "this is a folder, not a file"),
    (stat.S_ISFIFO, "this is a pipe, not a regular file"),
    (stat.S_ISSOCK, "this is a socket, not a regular file"),
    (stat.S_ISCHR, "this is a device, not a regular file"),
    (stat.S_ISBLK, "this is a device, not a regular file"),
)


def open_regular(
    path: Path,
    *,
    limit_bytes: int | None = None,
    fault: type[SmoothtoolError] = InputError,
    hint: str = "check the path",
) -> BinaryIO:
    """The file, opened for reading. Links are followed; what they lead to must be a regular file.

    limit_bytes  largest size that is taken; None for any
    fault, hint  how to refuse: which error, and what it suggests
    Raises: `fault` when there is no such file, it cannot be opened, is no regular file, or is over the limit.
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)  # a pipe must not block here
    try:
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:
        raise fault(f"{path}: {_why_closed(path, error)}", hint) from error
    try:
        _check(path, os.fstat(descriptor), limit_bytes, fault, hint)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_regular(
    path: Path, *, limit_bytes: int, fault: type[SmoothtoolError] = InputError, hint: str = "check the path"
) -> bytes:
    """All bytes of a regular file.

    Raises: `fault`, as `open_regular`, and when the file cannot be read to its end.
    """
    with open_regular(path, limit_bytes=limit_bytes, fault=fault, hint=hint) as file:
        try:
            content = file.read(limit_bytes + 1)  # files of /proc say that they are empty, and may not be
        except OSError as error:
            raise fault(f"{path}: cannot be read: {error.strerror}", hint) from error
    if len(content) > limit_bytes:
        raise fault(_too_large(path, limit_bytes), hint)
    return content


def check_regular(
    path: Path,
    *,
    limit_bytes: int | None = None,
    fault: type[SmoothtoolError] = InputError,
    hint: str = "check the path",
) -> None:
    """For files that a library opens by itself. Raises: `fault`, as `open_regular`."""
    open_regular(path, limit_bytes=limit_bytes, fault=fault, hint=hint).close()


def is_regular(path: Path) -> bool:
    """Whether a regular file is there; False for names that no file system could hold."""
    with suppress(OSError, ValueError):
        return stat.S_ISREG(os.stat(path).st_mode)
    return False


def at_home(text: str) -> Path:
    """The path, with a leading `~` replaced; one of an unknown user stays as it is, and is then not found."""
    return Path(os.path.expanduser(text))


def _check(path: Path, found: os.stat_result, limit_bytes: int | None, fault: type[SmoothtoolError], hint: str) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = next((words for test, words in _KINDS if test(found.st_mode)), "this is not a regular file")
        raise fault(f"{path}: {kind}", hint)
    if limit_bytes is not None and found.st_size > limit_bytes:
        raise fault(_too_large(path, limit_bytes), hint)


def _why_closed(path: Path, error: OSError | ValueError) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, ValueError):  # a NUL in the name, or a letter that no file name can hold
        return "this is not the name of a file"
    if isinstance(error, PermissionError) and os.path.isdir(path):  # as Windows refuses folders
        return "this is a folder, not a file"
    return f"cannot be read: {error.strerror}"


def _too_large(path: Path, limit_bytes: int) -> str:
    size = f"{limit_bytes / 1e6:.0f} MB" if limit_bytes >= 1_000_000 else f"{limit_bytes / 1e3:.0f} kB"
    return f"{path}: the file is larger than the {size} that are read"
