"""Many jobs in one folder: whatever is done stays done, what fails is recorded, and the rest goes on."""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from smoothtool.batch.items import Work, made_by, work_of
from smoothtool.batch.journal import PATTERN, Journal
from smoothtool.batch.summary import write_summary
from smoothtool.batch.worker import Batch, open_batch, work_here
from smoothtool.commands.shared.model_pool import model_key
from smoothtool.errors import StorageError, UsageError, storage_error
from smoothtool.files.storage.digests import Digests
from smoothtool.files.storage.output import create_folder, free_space_check, results_folder
from smoothtool.files.storage.writing import start_log
from smoothtool.types import Outcome, Track
from smoothtool.version import __version__

if TYPE_CHECKING:
    from smoothtool.recipe.plan import Plan

ITEM_BYTES = 2_000_000
"""Room asked for per item before the work begins: about what an edit of a 512 px picture leaves."""

PAGE_PATIENCE_S = 60.0
"""For another process that writes the page of the same share at this moment."""

Engine = Callable[[Batch, Sequence[Work], Callable[[], bool]], Generator[Work, None, None]]
"""(batch, items, whether to stop) -> the items as they are settled."""


@dataclass(frozen=True)
class BatchOptions:
    """How a batch is run, apart from what it makes.

    shard         the share of the items that this process makes: index from 1, and count
    retry_failed  make again what failed before
    force         replace results of other settings
    workers       of Ray; None for one per GPU of the cluster, or one per machine where there is none
    """

    shard: tuple[int, int] = (1, 1)
    retry_failed: bool = False
    force: bool = False
    engine: Literal["local", "ray"] = "local"
    workers: int | None = None


def run_batch(plan: Plan, options: BatchOptions, track: Track) -> list[Outcome]:
    """Work through the plan, or a share of it; leaves a folder per item, items.jsonl, batch.json and index.html.

    Raises: KeyboardInterrupt after the item at hand, when asked to stop; UsageError before any work when the folder
    cannot be used or holds results of other settings, or Ray is missing; ModelError when a model is missing, or, after
    all that other models can do, when one does not load: its items stay to do.
    """
    assert plan.folder is not None
    started, engine = time.perf_counter(), _engine(options)
    folder = _open_batch_folder(plan.folder)
    digests = Digests()
    works = [work_of(item, digests) for item in plan.items]
    index, count = options.shard
    journal = Journal(folder, "items.jsonl" if count == 1 else f"items-{index}-of-{count}.jsonl")
    batch = open_batch({work.name for work in works}, journal, track, retry_failed=options.retry_failed)
    share = _by_model(works)[index - 1 :: count]
    if not share:
        track.note(f"shard {index}/{count} holds no item of this batch of {len(works)}")
    mine = [work for work in share if not batch.settle(work)]
    _check_replaced(mine, journal, plan.folder, options)
    free_space_check(folder, len(mine) * ITEM_BYTES)
    stop = _Stop()
    try:
        with _heard(stop, track), closing(engine(batch, mine, lambda: stop.asked)) as settled:
            for _ in track(settled, "items", len(mine)):
                pass
        if batch.stuck:
            track.note(f"{len(batch.stuck)} items stay to do: their model does not load")
            raise next(iter(batch.stuck.values()))
    except BaseException as fault:
        hurried = stop.at_once or isinstance(fault, SystemExit)
        with suppress(OSError, StorageError):  # of a full disk: what stopped the batch is reported
            _sum_up(plan, works, batch, started, hurried=hurried)
        raise
    return _sum_up(plan, works, batch, started)


def _sum_up(plan: Plan, works: Sequence[Work], batch: Batch, started: float, *, hurried: bool = False) -> list[Outcome]:
    """Write down how things stand, and clear away what was broken off.

    Under a claim, so that no other process takes the half-written page for a leftover.
    hurried  neither wait for another process nor decode pictures: the page shows what it has thumbnails of
    """
    journal = batch.journal
    try:
        with journal.claim(journal.own.name, 0 if hurried else PAGE_PATIENCE_S):
            journal.refresh()
            for work in works:
                if not batch.settle(work):
                    batch.outcomes[work.name] = Outcome(work.name, work.item.job.command, "waiting", batch.why(work))
            outcomes = [batch.outcomes[work.name] for work in works]
            seconds = time.perf_counter() - started
            write_summary(plan, outcomes, journal.folder, seconds, batch.track, thumbnails=not hurried)
    finally:
        journal.sweep()
    return outcomes


def _open_batch_folder(path: Path) -> Path:
    """A new folder, or that of an earlier batch.

    Raises: UsageError when it holds other things, StorageError when it cannot be written.
    """
    folder = results_folder(path)
    try:
        if folder.is_dir() and any(folder.iterdir()) and not any(folder.glob(PATTERN)):
            raise UsageError(f"{path}: the folder is not empty, and not of a batch", "another folder with -o")
        start_log(next(folder.glob(PATTERN), create_folder(folder) / "items.jsonl"))
    except OSError as error:
        raise storage_error(path, error) from error
    return folder


def _by_model(works: Sequence[Work]) -> list[Work]:
    """In order, except that jobs of one model stand together: each model is loaded once."""
    first: dict[tuple[object, ...], int] = {}
    for work in works:
        first.setdefault(model_key(work.item.job), len(first))
    return sorted(works, key=lambda work: first[model_key(work.item.job)])


def _check_replaced(works: Sequence[Work], journal: Journal, typed: Path, options: BatchOptions) -> None:
    """A changed picture replaces its result; other settings in the same folder are more likely a slip.

    Another version of smoothtool counts as other settings: one batch is made by one.
    """
    known = [(work, journal.latest.get(work.name)) for work in works]
    slips = [
        work.name
        for work, record in known
        if record is not None and record["status"] == "made" and not record["key"].endswith(f"-{work.settings}")
    ]
    older = Counter(version for name in slips if (version := made_by(journal, name)) not in ("", __version__))
    if older and not options.force:
        version, count = older.most_common(1)[0]
        raise UsageError(
            f"{typed}: {count} results there were made by smoothtool {version}, and this is {__version__}",
            f"another folder with -o, --force to make them again, or pip install smoothtool=={version} to go on",
        )
    if slips and not options.force:
        raise UsageError(
            f"{typed}: {len(slips)} results there were made with other settings, first {slips[0]}",
            "another folder with -o, or --force to replace them",
        )


def _engine(options: BatchOptions) -> Engine:
    """Who does the work: this process, or workers of a Ray cluster.

    Raises: UsageError when Ray is not installed.
    """
    if options.engine == "local":
        return work_here
    try:
        from smoothtool.batch.ray_engine import work_on_ray
    except ModuleNotFoundError as error:
        raise UsageError("--engine ray: Ray is not installed", "pip install 'smoothtool[ray]'") from error
    return partial(work_on_ray, workers=options.workers, retry_failed=options.retry_failed)


@dataclass
class _Stop:
    """Whether Ctrl-C has asked to stop after the item at hand, or a second one at once."""

    asked: bool = False
    at_once: bool = False


@contextmanager
def _heard(stop: _Stop, track: Track) -> Iterator[None]:
    """Ctrl-C once: the item at hand is finished, then the batch stops; twice: it stops at once."""

    def on_interrupt(number: int, frame: object) -> None:
        if stop.asked:
            stop.at_once = True
            raise KeyboardInterrupt
        stop.asked = True
        track.note("stopping after the item at hand; Ctrl-C again stops now. The same command goes on from here")

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, earlier)
