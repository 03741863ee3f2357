"""What went wrong, in words for a person: what, where, what to try.

Each class carries the exit code that the command line gives it, and the `code` that stands in its JSON.
Raised where the fact is known, caught once in `cli`.
"""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable
from pathlib import Path

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS)
IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
"""A file where a folder is needed, or a folder where a file is."""
NO_NAME = (errno.ENAMETOOLONG, errno.ELOOP)
"""Only a path that was typed can be at fault: a name that no file can have, or a link that leads to itself."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as of every program that it ends."""


class SmoothtoolError(Exception):
    """`what` is one sentence, with the file or flag in it; `hint` says what to try."""

    exit_code = 1
    code = "internal"

    def __init__(self, what: str, hint: str = "") -> None:
        self.what, self.hint = what, hint
        super().__init__(what)

    def __str__(self) -> str:
        return f"{self.what} / try: {self.hint}" if self.hint else self.what


class UsageError(SmoothtoolError):
    """A flag, a number or a recipe that cannot be meant."""

    exit_code = 2
    code = "usage"


class BatchError(SmoothtoolError):
    """A batch that finished, with failed items."""

    exit_code = 3
    code = "items_failed"


class ModelError(SmoothtoolError):
    """A model, LoRA or inversion that is missing, broken, or made for other weights."""

    exit_code = 4
    code = "model"


class InputError(SmoothtoolError):
    """A picture or data file that cannot be used."""

    exit_code = 5
    code = "input"


class MemoryExhaustedError(SmoothtoolError):
    """Out of memory even after the batch was halved to one."""

    exit_code = 6
    code = "memory"


class StorageError(SmoothtoolError):
    """No room on the disk (`full`: nothing that writes there can go on), or no right to write."""

    exit_code = 7
    code = "storage"

    def __init__(self, what: str, hint: str = "", *, full: bool = False) -> None:
        super().__init__(what, hint)
        self.full = full


class Stopped(KeyboardInterrupt):
    """Ctrl-C, with what is kept and how to go on; an empty text when nothing is."""

    def __init__(self, kept: str = "") -> None:
        super().__init__(kept)
        self.kept = kept


def storage_error(path: Path, fault: OSError) -> StorageError:
    """Why `path` cannot be written."""
    reason = os.strerror(fault.errno) if fault.errno else str(fault)
    hint = "make room, or another disk" if fault.errno in NO_ROOM else "another place, or the right to write there"
    return StorageError(f"{path}: cannot be written ({reason})", hint, full=disk_is_full(fault))


def disk_is_full(fault: BaseException) -> bool:
    """Whether that is what happened: then nothing that writes there can go on."""
    if isinstance(fault, OSError):
        return fault.errno in (*NO_ROOM, errno.EROFS)
    return isinstance(fault, StorageError) and fault.full


def closest(word: str, known: Iterable[str]) -> str:
    """The known name that a mistyped one was probably meant to be, or an empty string."""
    return "".join(difflib.get_close_matches(word, list(known), n=1))


def first_line(fault: BaseException) -> str:
    """What an exception says, on one line; its name where it says nothing."""
    return (str(fault).strip().splitlines() or [type(fault).__name__])[0]


def out_of_memory(fault: BaseException) -> bool:
    """Whether that is what happened, on any device. torch's are recognised by name, since it may not be loaded."""
    if isinstance(fault, (MemoryError, MemoryExhaustedError)) or type(fault).__name__ == "OutOfMemoryError":
        return True
    words = ("out of memory", "allocate memory", "DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(fault, RuntimeError) and any(word in str(fault) for word in words)


def explain(fault: BaseException) -> SmoothtoolError:
    """Any exception in the user's terms."""
    if isinstance(fault, SmoothtoolError):
        return fault
    if out_of_memory(fault):
        return MemoryExhaustedError("out of memory", "a smaller --size, fewer pictures, or --dtype float16")
    if isinstance(fault, FileNotFoundError) and not fault.filename:  # of os.getcwd(), wherever it is asked
        return UsageError("the folder that you are in was deleted", "cd to another one first")
    if isinstance(fault, OSError) and fault.errno is not None:
        name = f"{os.fsdecode(fault.filename)}: " if fault.filename else ""
        if fault.errno in (*NO_ROOM, *NO_RIGHT, *IN_THE_WAY):
            hint = "another folder with -o, or make room"
            return StorageError(f"{name}{os.strerror(fault.errno)}", hint, full=disk_is_full(fault))
        if fault.errno in NO_NAME:
            return InputError(f"{name}{os.strerror(fault.errno)}", "check the path")
        return SmoothtoolError(f"{name}{os.strerror(fault.errno)}", "another folder with -o")
    what = f"{type(fault).__name__}: {first_line(fault)}" if str(fault).strip() else type(fault).__name__
    return SmoothtoolError(f"internal error: {what}", "run again with --debug, and report what it shows")
