"""What has been done in a folder that several processes write to: one record a line, and one lock per item."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, Timeout

from smoothtool.errors import SmoothtoolError
from smoothtool.files.storage.leftovers import sweep_leftovers
from smoothtool.files.storage.records import append_record, read_record
from smoothtool.readers.regular import open_regular

PATTERN = "items*.jsonl"
LOCKS = ".locks"
SWEPT = 50
"""Times in a row that the folder of locks may vanish under a claim, before the fault is another."""


class Journal:
    """The records of a batch: `latest` by the name of the item, and in `made` the name by the key of a finished one.

    folder  the batch's
    own     the file that this process adds to; all files that match PATTERN are read
    """

    def __init__(self, folder: Path, own: str = "items.jsonl") -> None:
        self.folder, self.own = folder, folder / own
        self.latest: dict[str, dict[str, Any]] = {}
        self.made: dict[str, str] = {}
        self._read_to: dict[Path, int] = {}
        self.refresh()

    def refresh(self) -> None:
        """Take in the whole lines that were added since, by this process or another."""
        for path in sorted(self.folder.glob(PATTERN)):
            with open_regular(path) as file:
                file.seek(self._read_to.get(path, 0))
                whole, newline, _ = file.read().rpartition(b"\n")
            self._read_to[path] = self._read_to.get(path, 0) + len(whole) + len(newline)
            for line in whole.splitlines():
                self._take(line)

    def append(self, record: dict[str, Any]) -> None:
        """Numbered per item: of two records in two files the later is known without a clock that all machines share."""
        attempt = self.latest.get(record["name"], {"attempt": 0})["attempt"] + 1
        append_record(self.own, {**record, "attempt": attempt})
        self.refresh()

    def _take(self, line: bytes) -> None:
        """A line that was cut short by a crash, or is of something else, counts as none."""
        record = _record(line)
        if record is not None and record["attempt"] >= self.latest.get(record["name"], {"attempt": 0})["attempt"]:
            self.latest[record["name"]] = record
            if record["status"] == "made":
                self.made[record["key"]] = record["name"]

    @contextmanager
    def claim(self, name: str, patience_s: float = 0) -> Iterator[bool]:
        """True for as long as no other process works on the item; the operating system frees it after a crash.

        The lock's file is left behind only when the work was broken off.
        """
        path = self.folder / LOCKS / hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:24]
        lock = FileLock(path)
        if not _acquired(lock, path.parent, patience_s):
            yield False
            return
        try:
            yield True
            path.unlink(missing_ok=True)
        finally:
            lock.release()

    def sweep(self) -> None:
        """Delete what killed processes left half-written, unless another process is at work."""
        now, locks = time.time(), self.folder / LOCKS
        try:
            if all(_freed(path) for path in list(locks.iterdir())):
                locks.rmdir()
                sweep_leftovers(self.folder, deep=True, before=now)
        except OSError:  # there are none, or there is a new one
            return


def _freed(path: Path) -> bool:
    """Whether nobody holds a lock any more, whose file is then gone: its process may have died just before."""
    lock = FileLock(path)
    try:
        with lock.acquire(timeout=0):
            path.unlink(missing_ok=True)
            return True
    except Timeout:
        return False


def _record(line: bytes) -> dict[str, Any] | None:
    """The record in a line; None where it cannot be one of ours, or names a folder outside the batch's."""
    found = read_record(line, {"name": str, "key": str, "status": str, "attempt": int})
    if found is None:
        return None
    name = PurePosixPath(found.text("name"))
    try:
        optional = found.text("hint", ""), found.whole("exit_code", 1), found.number("seconds", 0.0)
        right = found.values["status"] == "made" or (found.values["status"] == "failed" and found.text("error"))
    except SmoothtoolError:
        return None
    return dict(found.values) if optional and right and not name.is_absolute() and ".." not in name.parts else None


def _acquired(lock: FileLock, folder: Path, patience_s: float) -> bool:
    """Whether nobody else holds it. Another process that sweeps may take the folder away just before it is used."""
    for attempt in range(SWEPT):
        try:
            folder.mkdir(exist_ok=True)
            lock.acquire(timeout=patience_s)
            if Path(lock.lock_file).exists():
                return True
            lock.release()  # of a file that was taken away in the same moment
        except Timeout:
            return False
        except (FileNotFoundError, FileExistsError):
            if attempt == SWEPT - 1:
                raise
    raise AssertionError("the last attempt returns or raises")
