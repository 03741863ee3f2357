"""Exceptions -> one line for the person and an exit code. The only place where errors are caught for good."""

from __future__ import annotations

import sys
import traceback
from contextlib import suppress
from typing import Any

import typer
from typer.core import TyperGroup

from smoothtool.cli import console
from smoothtool.cli.streams import visible
from smoothtool.errors import INTERRUPTED, UsageError, explain


class Group(TyperGroup):
    """Commands under one name. Without one it shows its help and leaves with 2: old clicks leave with 0."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args:
            typer.echo(ctx.get_help())
            ctx.exit(UsageError.exit_code)
        return super().parse_args(ctx, args)


def report_fault(fault: BaseException) -> int:
    """Tell what happened, with the traceback under --debug; returns the exit code."""
    if console.show.debug:
        sys.stderr.write(visible("".join(traceback.format_exception(fault))))
    if isinstance(fault, KeyboardInterrupt):
        console.error("interrupted")
        _document("interrupted", "interrupted", "", INTERRUPTED)
        return INTERRUPTED
    known = explain(fault)
    console.error(known.what, known.hint)
    _document(known.code, known.what, known.hint, known.exit_code)
    return known.exit_code


def as_usage_error(fault: BaseException) -> BaseException:
    """Typer's own complaint about the command line as ours; anything else unchanged.

    It is known by what it can do: its class belongs to a copy of click inside Typer.
    """
    if not hasattr(fault, "format_message"):
        return fault
    command = getattr(getattr(fault, "ctx", None), "command_path", "smoothtool")
    return UsageError(str(fault.format_message()), f"{command} --help")


def failure(code: str, message: str, hint: str, exit_code: int) -> dict[str, Any]:
    """What went wrong, for programs: `code` is that of the error's class, the same words stand on stderr."""
    return {"ok": False, "error": {"code": code, "message": message, "hint": hint, "exit_code": exit_code}}


def _document(code: str, message: str, hint: str, exit_code: int) -> None:
    if console.show.json:
        with suppress(OSError):  # where stdout cannot be written, stderr has said all of it
            console.document(failure(code, message, hint, exit_code))
