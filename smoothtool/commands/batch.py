"""Many jobs in one folder: whatever is done stays done, what fails is recorded, and the rest goes on."""

from __future__ import annotations

import errno
import importlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smoothtool.commands.batch_items import CONTINUED, Digests, Work, finished, work_of
from smoothtool.commands.batch_page import write_summary
from smoothtool.commands.sharing import Shared
from smoothtool.errors import InputError, SmoothtoolError, UsageError, explain
from smoothtool.files.journal import PATTERN, Journal
from smoothtool.files.output import free_space_check
from smoothtool.types import Outcome, Track

if TYPE_CHECKING:
    from smoothtool.jobs import Job
    from smoothtool.plan import Plan

ITEM_BYTES = 2_000_000
"""Room asked for per item before the work begins: about what an edit of a 512 px picture leaves."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
PATIENCE_S = 0.2
"""Between two looks at an item that another process is working on."""


@dataclass(frozen=True)
class How:
    """How a batch is worked through, apart from what it is: its share (index from 1, count), and second chances."""

    shard: tuple[int, int] = (1, 1)
    retry_failed: bool = False
    force: bool = False


@dataclass
class _Batch:
    """What the stations share. `again` are the failures that this run gives a second chance."""

    works: list[Work]
    names: set[str]
    journal: Journal
    track: Track
    again: dict[str, dict[str, Any]]
    before: dict[str, dict[str, Any]]
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def settle(self, work: Work) -> bool:
        """Whether the item needs no work now: it is made, or has failed and gets no second chance."""
        record = finished(work, self.journal, self.names)
        if record is None or self.again.get(work.name) is record:
            return False
        before = self.before.get(record["name"]) is record
        status = record["status"] if record["status"] == "failed" or not before else "skipped"
        self.outcomes[work.name] = Outcome(work.name, work.item.job.command, status, record)
        return True


def run_batch(plan: Plan, how: How, track: Track) -> list[Outcome]:
    """Work through the plan, or a share of it; leaves a folder per item, items.jsonl, batch.json and index.html.

    Raises: KeyboardInterrupt after the item at hand, when asked to stop; UsageError before any work when the folder
    cannot be used or holds results of other settings; ModelError when a model is missing.
    """
    assert plan.folder is not None
    started = time.perf_counter()
    folder = _open_folder(plan.folder)
    digests = Digests()
    works = [work_of(item, digests) for item in plan.items]
    index, count = how.shard
    journal = Journal(folder, "items.jsonl" if count == 1 else f"items-{index}-of-{count}.jsonl")
    failed = {name: record for name, record in journal.latest.items() if record["status"] == "failed"}
    batch = _Batch(works, {work.name for work in works}, journal, track, failed if how.retry_failed else {},
                   dict(journal.latest))  # fmt: skip
    mine = [work for work in _by_model(works)[index - 1 :: count] if not batch.settle(work)]
    _check_replaced(mine, journal, plan.folder, how)
    free_space_check(folder, len(mine) * ITEM_BYTES)
    try:
        with Shared() as shared, _one_more_item(track) as stopped:
            _work_through(batch, mine, shared, stopped)
    finally:
        journal.sweep()
        journal.refresh()
        for work in works:
            if not batch.settle(work):
                batch.outcomes[work.name] = Outcome(work.name, work.item.job.command, "waiting", {})
        outcomes = [batch.outcomes[work.name] for work in works]
        write_summary(plan, outcomes, folder, time.perf_counter() - started)
    return outcomes


def _open_folder(path: Path) -> Path:
    """A new folder, or that of an earlier batch.

    Raises: UsageError when it holds other things, or cannot be written.
    """
    folder = path.expanduser().absolute()
    try:
        if folder.is_dir() and any(folder.iterdir()) and not any(folder.glob(PATTERN)):
            raise UsageError(f"{path}: the folder is not empty, and not of a batch", "another folder with -o")
        folder.mkdir(parents=True, exist_ok=True)
        next(folder.glob(PATTERN), folder / "items.jsonl").open("ab").close()
    except OSError as error:
        raise UsageError(f"{path}: cannot be written to ({error.strerror})", "another folder with -o") from error
    return folder


def _by_model(works: Sequence[Work]) -> list[Work]:
    """In order, except that jobs of one model stand together: each model is loaded once."""
    first: dict[str, int] = {}

    def model_of(work: Work) -> str:
        job = work.item.job
        return str([getattr(job, key, None) for key in ("model", "lora", "device", "dtype")])

    for work in works:
        first.setdefault(model_of(work), len(first))
    return sorted(works, key=lambda work: first[model_of(work)])


def _check_replaced(works: Sequence[Work], journal: Journal, typed: Path, how: How) -> None:
    """A changed picture replaces its result; other settings in the same folder are more likely a slip."""
    known = [(work, journal.latest.get(work.name)) for work in works]
    slips = [
        work.name
        for work, record in known
        if record is not None and record["status"] == "made" and not record["key"].endswith(f"-{work.settings}")
    ]
    if slips and not how.force:
        raise UsageError(
            f"{typed}: {len(slips)} results there were made with other settings, first {slips[0]}",
            "another folder with -o, or --force to replace them",
        )  # fmt: skip


def _work_through(batch: _Batch, mine: Sequence[Work], shared: Shared, stopped: Callable[[], bool]) -> None:
    """Every item once; those that another process has at hand come last, when it is done with them or dead."""
    busy = []
    for work in batch.track(mine, "items", len(mine)):
        if stopped():
            raise KeyboardInterrupt
        if not _claimed(batch, work, shared):
            busy.append(work)
    while busy:
        busy = [work for work in busy if not _claimed(batch, work, shared)]
        if stopped():
            raise KeyboardInterrupt
        time.sleep(PATIENCE_S if busy else 0)


def _claimed(batch: _Batch, work: Work, shared: Shared) -> bool:
    """Make the item unless it is settled; False when another process is at it."""
    with batch.journal.claim(work.name) as free:
        if free:
            batch.journal.refresh()
            if not batch.settle(work):
                batch.journal.append(_make(work, batch, shared))
                batch.again.pop(work.name, None)
                batch.settle(work)
        return free


def _make(work: Work, batch: _Batch, shared: Shared) -> dict[str, Any]:
    """Run the job; a failure becomes a record like any other, except that of a disk on which nothing can go on."""
    started = time.perf_counter()
    record: dict[str, Any] = {"name": work.name, "key": work.key}
    try:
        known = (batch.journal.folder / work.name / "report.json").is_file()
        _run(work.job_in(batch.journal.folder, known), batch.track, shared)
        record["status"] = "made"
    except Exception as error:
        if _is_disk_full(error):
            raise UsageError(f"{batch.journal.folder}: {explain(error).what}", "make room, and start again") from error
        if not isinstance(error, (UsageError, InputError)):
            shared.forget()
        told = explain(error)
        record |= {"status": "failed", "error": told.what, "hint": told.hint, "exit_code": told.exit_code}
    return record | {"seconds": round(time.perf_counter() - started, 3)}


def _run(job: Job, track: Track, shared: Shared) -> None:
    changes_model = job.command in CONTINUED
    try:
        importlib.import_module(f"smoothtool.commands.{job.command}").run(job, track)
    finally:
        if changes_model:
            shared.forget()


def _is_disk_full(error: BaseException) -> bool:
    number = getattr(error, "errno", None)
    return number in DISK_FULL or (not isinstance(error, SmoothtoolError) and "No space left" in str(error))


@contextmanager
def _one_more_item(track: Track) -> Iterator[Callable[[], bool]]:
    """Ctrl-C once: the item at hand is finished, then the batch stops; twice: it stops at once."""
    asked = False

    def on_interrupt(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        track.note("stopping after the item at hand; Ctrl-C again stops now. The same command goes on from here")

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    earlier = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, earlier)
