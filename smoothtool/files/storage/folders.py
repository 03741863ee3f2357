"""The files below a folder, in every place that means a folder of pictures."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

RESULTS = ("report.json", "batch.json")
"""A folder with one of these holds results, and is no folder of pictures to begin with."""


@dataclass
class Below:
    """Every file below a folder at any depth; `problems` fills with a line for each folder that cannot be read.

    Links are followed. A folder to which several ways lead is entered once, by its own name where that is below, so
    that loops end. What is hidden is left out, and so are the results of earlier runs.
    """

    folder: str | Path
    problems: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[str]:
        entered: set[str] = set()
        waiting = [str(self.folder)]
        while waiting:
            links: list[str] = []
            for start in waiting:
                yield from self._files(start, entered, links)
            waiting = sorted(links)

    def _files(self, start: str, entered: set[str], links: list[str]) -> Iterator[str]:
        """Files below a folder without going through links, which are added to `links`."""
        for here, folders, files in os.walk(start, onerror=self._told):
            real = os.path.realpath(here)
            results = here != str(self.folder) and any(name in files for name in RESULTS)
            if real in entered or results:
                folders.clear()
                continue
            entered.add(real)
            shown = [name for name in folders if not name.startswith(".")]
            folders[:] = [name for name in shown if not os.path.islink(os.path.join(here, name))]
            links += [os.path.join(here, name) for name in shown if os.path.islink(os.path.join(here, name))]
            yield from (os.path.join(here, name) for name in files if not name.startswith("."))

    def _told(self, error: OSError) -> None:
        self.problems.append(f"left out: {os.fsdecode(error.filename)} cannot be read ({error.strerror})")
