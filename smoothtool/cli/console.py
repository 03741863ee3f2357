"""What the user sees. stdout is data; everything else goes to stderr: bars on a terminal, notices always."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from smoothtool.cli.streams import visible

T = TypeVar("T")
NARROW = 60
"""Columns under which bars and times would push the description out."""
KEPT_BARS = 6
"""Bars of finished stages that stay on the screen: a batch would fill it."""


@dataclass
class Show:
    """Global flags: how much is shown, and whether stdout is one JSON document, also of what went wrong."""

    quiet: bool = False
    debug: bool = False
    json: bool = False

    def also(self, quiet: bool, debug: bool) -> None:
        """The same flags given after the subcommand."""
        self.quiet, self.debug = self.quiet or quiet, self.debug or debug


show = Show()
stderr = Console(stderr=True, highlight=False)


def data(text: str) -> None:
    """One piece of output for other programs; a terminal gets it without control characters.

    Raises: OSError, with stdout as its file, when it cannot be written, as on a full disk.
    """
    line = text.rstrip("\n") + "\n"
    try:
        sys.stdout.write(visible(line) if sys.stdout.isatty() else line)
        sys.stdout.flush()
    except OSError as error:
        raise OSError(error.errno, error.strerror, "stdout") from error


def document(content: Mapping[str, Any]) -> None:
    """The one JSON document of a run with --json; what goes wrong after it is reported on stderr alone."""
    show.json = False
    data(json.dumps(content, indent=2))


def rows_or_document(name: str, rows: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    """Records as columns under their keys in capitals, or as `{"ok": true, name: [...]}`."""
    if as_json:
        document({"ok": True, name: list(rows)})
    elif rows:
        table([[key.upper() for key in rows[0]], *([str(value) for value in row.values()] for row in rows)])


def table(rows: Sequence[Sequence[str]]) -> None:
    """Rows as aligned columns of plain text: readable, and easy to cut in a pipe."""
    rows = [[visible(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        data("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def tell(text: str) -> None:
    """A line that the person cannot do without, even with --quiet."""
    stderr.print(Text(visible(text)), soft_wrap=True)


def notice(text: str) -> None:
    """A line for the person, not part of the data; user text in it is never markup."""
    if not show.quiet:
        tell(text)


def error(what: str, hint: str = "") -> None:
    """`error: what` for each line, and `try: hint`."""
    for line in what.split("\n"):
        stderr.print(Text.assemble(("error: ", "bold red"), visible(line)), soft_wrap=True)
    if hint:
        stderr.print(Text.assemble(("try: ", "bold"), visible(hint)), soft_wrap=True)


class _Bars(Bars):
    """Bars with a line of figures under them."""

    figures = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.figures:
            yield Text(self.figures, style="dim", no_wrap=True, overflow="ellipsis")


class Progress:
    """The `Track` of the command line: one bar per stage, with time passed and time left.

    From entering to the first stage it says `loading`, because importing torch and reading weights take seconds.
    Nothing moves when stderr is no terminal or with --quiet.
    """

    def __init__(self) -> None:
        live = stderr.is_terminal and not show.quiet
        self.bars = _Bars(*_columns(stderr.width), console=stderr) if live else None
        self.noted: set[str] = set()

    def __enter__(self) -> Progress:
        if self.bars is not None:
            self.bars.start()
            self.loading = self.bars.add_task("loading", total=None)
        return self

    def __exit__(self, *problem: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Leave the terminal as it was."""
        if self.bars is not None:
            self.bars.stop()

    def __call__(self, items: Iterable[T], description: str, total: int) -> Iterable[T]:
        return items if self.bars is None else self._shown(self.bars, items, description, total)

    def _shown(self, bars: _Bars, items: Iterable[T], description: str, total: int) -> Iterator[T]:
        bars.update(self.loading, total=1, completed=1)
        task = bars.add_task(visible(description), total=total)
        try:
            for item in items:
                bars.advance(task)
                yield item
        finally:
            bars.stop_task(task)
            bars.figures = ""
            for done in [other.id for other in bars.tasks if other.stop_time is not None][:-KEPT_BARS]:
                bars.remove_task(done)

    def note(self, text: str) -> None:
        """Said once, however often it is noted."""
        if text not in self.noted:
            self.noted.add(text)
            notice(text)

    def tell(self, text: str) -> None:
        tell(text)

    def status(self, text: str) -> None:
        """Under the bars, drawn with them a few times a second; not shown where there are none."""
        if self.bars is not None:
            self.bars.figures = visible(text)


def _columns(width: int) -> list[ProgressColumn]:
    description = TextColumn("{task.description}", markup=False)
    if width < NARROW:
        return [description, TaskProgressColumn()]
    left = TextColumn("left", style="dim")
    return [description, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), left, TimeRemainingColumn()]
