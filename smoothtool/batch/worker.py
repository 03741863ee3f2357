"""One process's way through the items of a batch: take what nobody else has, make it, write down how it went."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from smoothtool.batch.items import Work, finished
from smoothtool.batch.journal import Journal
from smoothtool.commands import run_job
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.errors import (
    InputError,
    SmoothtoolError,
    StorageError,
    UsageError,
    disk_is_full,
    explain,
    storage_error,
)
from smoothtool.types import Outcome, Track

if TYPE_CHECKING:
    pass

PATIENCE_S = 0.2
"""Between two looks at an item that another process is working on."""


@dataclass
class Batch:
    """What is known of a batch: the names of all its items, and its journal.

    again   failures that this run gives a second chance
    before  the records of earlier runs
    stuck   by item, why its model does not load: no fault of the item's, which stays to do
    """

    names: set[str]
    journal: Journal
    track: Track
    again: dict[str, dict[str, Any]]
    before: dict[str, dict[str, Any]]
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    stuck: dict[str, Exception] = field(default_factory=dict)

    def settle(self, work: Work) -> bool:
        """Whether the item needs no work now: it is made, or has failed and gets no second chance."""
        record = finished(work, self.journal, self.names)
        if record is None or self.again.get(work.name) is record:
            return False
        before = self.before.get(record["name"]) is record
        status = record["status"] if record["status"] == "failed" or not before else "skipped"
        self.outcomes[work.name] = Outcome(work.name, work.item.job.command, status, record)
        return True

    def why(self, work: Work) -> dict[str, Any]:
        """Why an item is not done, as the page tells it; nothing when it is not its turn yet."""
        fault = self.stuck.get(work.name)
        return {} if fault is None else {"error": explain(fault).what, "hint": explain(fault).hint}

    def is_left(self, work: Work) -> bool:
        return work.name not in self.outcomes and work.name not in self.stuck

    def write_down(self, work: Work, facts: dict[str, Any]) -> None:
        """Append how the item went, which settles it, even if somebody has taken its result away since."""
        self.journal.append({"name": work.name, "key": work.key, **facts})
        self.again.pop(work.name, None)
        if not self.settle(work):
            record = self.journal.latest[work.name]
            self.outcomes[work.name] = Outcome(work.name, work.item.job.command, record["status"], record)


def open_batch(names: set[str], journal: Journal, track: Track, *, retry_failed: bool) -> Batch:
    """The batch as it stands in its folder now."""
    failed = {name: record for name, record in journal.latest.items() if record["status"] == "failed"}
    return Batch(names, journal, track, failed if retry_failed else {}, dict(journal.latest))


def work_here(batch: Batch, works: Sequence[Work], stopped: Callable[[], bool]) -> Generator[Work, None, None]:
    """Make every item in this process; each is handed out when it is settled.

    Those that another process has at hand come last, when it is done with them or dead.
    Raises: KeyboardInterrupt when asked to stop and there is more to do.
    """
    left = in_groups(works, _has_gpu)
    pool = ModelPool()
    while left:
        for group in left:
            if stopped():
                raise KeyboardInterrupt
            attempt(batch, group, pool)
            yield from (work for work in group if work.name in batch.outcomes)
        left = [[work] for group in left for work in group if batch.is_left(work)]
        time.sleep(PATIENCE_S if left else 0)


def in_groups(works: Sequence[Work], on_gpu: Callable[[], bool]) -> list[list[Work]]:
    """The items that go through the UNet together; nothing heavy is imported when none do."""
    sizes = {getattr(work.item.job, "batch_size", 1) for work in works}
    gpu = None in sizes and on_gpu()
    if not gpu and sizes <= {None, 1}:
        return [[work] for work in works]
    from smoothtool.batch.together import grouped

    return grouped(works, gpu)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def attempt(batch: Batch, works: Sequence[Work], pool: ModelPool) -> None:
    """Make these items, except what is settled meanwhile, or what another process is at; several go together."""
    with ExitStack() as claims:
        free = [work for work in works if claims.enter_context(batch.journal.claim(work.name))]
        batch.journal.refresh()
        todo = [work for work in free if not batch.settle(work)]
        if len(todo) > 1:
            _precompute(todo, batch, pool)
        for work in todo:
            fault = pool.fault(work.item.job) or _work(work, batch, pool)
            if fault is not None:
                batch.stuck[work.name] = fault
        pool.clear_precomputed()


def _precompute(works: Sequence[Work], batch: Batch, pool: ModelPool) -> None:
    from smoothtool.batch.together import precompute

    jobs = []
    for work in works:
        with suppress(SmoothtoolError):  # reported when its turn comes
            jobs.append(work.job_in(batch.journal.folder, known=False))
    if len(jobs) > 1:
        precompute(jobs, pool, batch.track)  # type: ignore[arg-type]  # what stands in one group is a PictureJob


def _work(work: Work, batch: Batch, pool: ModelPool) -> Exception | None:
    """Why the item cannot be made yet: its model does not load. Else it is written down how it went.

    Raises: StorageError when the disk is full: nothing can go on.
    """
    try:
        facts = _make(work, batch, pool)
        fault = pool.fault(work.item.job)
        if fault is None:
            batch.write_down(work, facts)
        return fault
    except Exception as error:
        if disk_is_full(error):
            known = storage_error(batch.journal.folder, error) if isinstance(error, OSError) else explain(error)
            raise StorageError(known.what, "make room, and start again", full=True) from error
        raise


def _make(work: Work, batch: Batch, pool: ModelPool) -> dict[str, Any]:
    """Run the job; a failure is reported like any other result, except that of a full disk."""
    started = time.perf_counter() - pool.precompute_s
    try:
        known = (batch.journal.folder / work.name / "report.json").is_file()
        run_job(work.job_in(batch.journal.folder, known), batch.track, pool)
        facts: dict[str, Any] = {"status": "made"}
    except Exception as error:
        if disk_is_full(error):
            raise
        if not isinstance(error, (UsageError, InputError)):
            pool.drop()
        facts = failure(error)
    return facts | {"seconds": round(time.perf_counter() - started, 3)}


def failure(error: Exception) -> dict[str, Any]:
    """What the journal keeps of an item that failed."""
    known = explain(error)
    return {"status": "failed", "error": known.what, "hint": known.hint, "exit_code": known.exit_code}
