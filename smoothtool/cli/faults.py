"""Exceptions -> one line for the person and an exit code. The only place where errors are caught for good."""

from __future__ import annotations

import os
import traceback

from smoothtool.cli import console
from smoothtool.errors import MemoryExhaustedError, SmoothtoolError

INTERRUPTED, TERMINATED = 130, 143


def report_fault(fault: BaseException) -> int:
    """Tell what happened, with the traceback under --debug; returns the exit code."""
    if console.show.debug:
        traceback.print_exception(fault)
    if isinstance(fault, KeyboardInterrupt):
        console.error("interrupted")
        return INTERRUPTED
    known = fault if isinstance(fault, SmoothtoolError) else _translated(fault)
    console.error(known.what, known.hint)
    return known.exit_code


def _translated(fault: BaseException) -> SmoothtoolError:
    """A foreign exception in the user's terms. torch is recognised by name, since it may not be loaded."""
    first_line = str(fault).strip().partition("\n")[0]
    if isinstance(fault, MemoryError) or type(fault).__name__ == "OutOfMemoryError" or "allocate memory" in first_line:
        return MemoryExhaustedError("out of memory", "a smaller --size, fewer pictures, or --dtype float16")
    if isinstance(fault, OSError) and fault.errno is not None:
        name = f"{os.fsdecode(fault.filename)}: " if fault.filename else ""
        return SmoothtoolError(f"{name}{os.strerror(fault.errno)}", "another folder with -o")
    what = f"{type(fault).__name__}: {first_line}" if first_line else type(fault).__name__
    return SmoothtoolError(f"internal error: {what}", "run again with --debug, and report what it shows")
