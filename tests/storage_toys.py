"""Disks that are full, and processes that are killed."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

TOUCHES_THE_DISK = ("open", "os.", "shutil.", "ctypes.dlsym", "tempfile.")
"""Audit events that Python raises before anything is changed on a disk; swapping two names goes through ctypes."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def limited_files(size_bytes: int) -> Iterator[None]:
    """Larger files cannot be written meanwhile, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def kill_at_every_moment(action: Callable[[], object], check: Callable[[], object]) -> int:
    """Run `action` in a process that is killed before its first touch of the disk, then one before its second, …

    check  told what is left each time, and in the end of the whole action; returns how many moments there were
    """
    for moment in count(1):
        child = os.fork()
        if child == 0:
            _die_at(moment)
            action()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        check()
        if os.waitstatus_to_exitcode(status) == 0:
            return moment
    raise AssertionError("an action ends")


def _die_at(moment: int) -> None:
    seen = count(1)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(TOUCHES_THE_DISK) and next(seen) == moment:
            os._exit(9)

    sys.addaudithook(hook)
