"""A finished folder takes the place of another: in one step where the system can, so that a kill leaves one of them."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import shutil
import sys
from pathlib import Path
from typing import Any

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # Linux, <fcntl.h> and <linux/fs.h>
RENAME_SWAP = 2  # macOS, <sys/stdio.h>
CANNOT = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)


def replace_folder(new: Path, old: Path) -> None:
    """`new` at the place of `old`; what was there lies under the name of `new` afterwards, or is gone.

    Where two names cannot be swapped in one step, the old folder is set aside under a name that `put_back` knows.
    """
    if _swapped(new, old):
        return
    aside = _aside(old)
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(old, aside)
    try:
        os.rename(new, old)
    except BaseException:
        os.rename(aside, old)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def put_back(folder: Path) -> None:
    """Bring back what a killed `replace_folder` set aside, or clear it away where the new folder is in its place."""
    aside = _aside(folder)
    if not aside.is_dir():
        return
    if folder.exists():
        shutil.rmtree(aside, ignore_errors=True)
    else:
        os.rename(aside, folder)


def _aside(folder: Path) -> Path:
    """Short whatever the length of the folder's name."""
    return folder.parent / f".{hashlib.sha256(os.fsencode(folder.name)).hexdigest()[:12]}.kept"  # "/" has no name


def _swapped(one: Path, other: Path) -> bool:
    """Swap two names; False where system or disk cannot. Raises: OSError when it can and fails."""
    library: Any = ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None
    names = os.fsencode(one), os.fsencode(other)
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        failed = library.renamex_np(*names, ctypes.c_uint(RENAME_SWAP))
    elif hasattr(library, "renameat2"):
        failed = library.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], ctypes.c_uint(RENAME_EXCHANGE))
    else:
        return False
    number = ctypes.get_errno()
    if failed and number not in CANNOT:
        raise OSError(number, os.strerror(number), str(other))
    return not failed
