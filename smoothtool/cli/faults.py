"""Exceptions -> one line for the person and an exit code. The only place where errors are caught for good."""

from __future__ import annotations

import sys
import traceback

from smoothtool.cli import console
from smoothtool.cli.streams import visible
from smoothtool.errors import INTERRUPTED, explain


def report_fault(fault: BaseException) -> int:
    """Tell what happened, with the traceback under --debug; returns the exit code."""
    if console.show.debug:
        sys.stderr.write(visible("".join(traceback.format_exception(fault))))
    if isinstance(fault, KeyboardInterrupt):
        console.error("interrupted")
        return INTERRUPTED
    known = explain(fault)
    console.error(known.what, known.hint)
    return known.exit_code
