"""The items of a batch on a Ray cluster: one process a worker, a next item (or group) to whoever is free.

Ray's actors rather than Ray Data: an item is a job with a folder for its result, not a row of a table. Handed out one
by one, the items of a dead worker go to the next, each alone, and one that kills every worker it meets is found and
reported; Ray Data would start a whole block again, for ever or not at all. Actors also need nothing but Ray itself.

Workers are processes of the same batch like any others: they claim an item by its lock in the batch's folder, make it
there, and write it down in a journal of their own. All machines of the cluster must see that folder and the pictures
under the same names, as with `--shard`.
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from smoothtool.batch.items import Work
from smoothtool.batch.journal import Journal
from smoothtool.batch.worker import PATIENCE_S, Batch, attempt, failure, in_groups, open_batch
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.errors import SmoothtoolError, UsageError, explain
from smoothtool.types import Silent, Track

DEATHS = 3
"""Workers that an item may outlive; a machine that goes away is bad luck, three in a row are the item's doing."""
ROOM_S = 30.0
"""Without any worker after which a note says what they wait for."""
OURS = "SMOOTHTOOL_"
"""How the names of our environment variables begin, which workers on other machines have to know too."""


class Notes(Silent):
    """Keeps what a worker has to say, for the terminal of the one who asked."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


@dataclass(frozen=True)
class Posting:
    """What a worker has to know before its first item; `number` tells its journal from those of the others."""

    number: int
    folder: Path
    names: set[str]
    retry_failed: bool
    working_folder: str
    environment: dict[str, str]


@dataclass(frozen=True)
class Answer:
    """What a worker has to say, and by item why its model does not load there."""

    notes: list[str]
    stuck: dict[str, SmoothtoolError]


class Worker:
    """A process that makes items; its model stays loaded from one to the next."""

    def __init__(self) -> None:
        self.pool = ModelPool()
        self.batch: Batch | None = None

    def start(self, posting: Posting) -> None:
        """Raises: UsageError when this machine does not see the folders of the one that asks."""
        os.environ.update(posting.environment)
        for folder in (posting.working_folder, posting.folder):
            if not os.path.isdir(folder):
                raise UsageError(
                    f"--engine ray: {folder} is not there on {platform.node()}",
                    "a folder that all machines of the cluster share",
                )
        os.chdir(posting.working_folder)  # pictures are named as they were typed
        journal = Journal(posting.folder, f"items-ray-{posting.number}.jsonl")
        self.batch = open_batch(posting.names, journal, Notes(), retry_failed=posting.retry_failed)

    def make(self, works: Sequence[Work]) -> Answer:
        """Make these items unless they are made meanwhile."""
        assert self.batch is not None, "a worker is started first"
        self.batch.track = notes = Notes()
        self.batch.stuck = {}
        attempt(self.batch, works, self.pool)
        if any(map(self.batch.is_left, works)):
            time.sleep(PATIENCE_S)  # a process outside the cluster is at it: no hurry to be given it again
        return Answer(notes.said, {name: explain(fault) for name, fault in self.batch.stuck.items()})


@dataclass
class _Crew:
    """The workers that are alive: those at work by their answer to come (None: on their way in), and those who wait."""

    hire: Callable[[int], tuple[Any, Any]]
    at_work: dict[Any, tuple[Any, list[Work]]] = field(default_factory=dict)
    idle: list[Any] = field(default_factory=list)
    hired: int = 0
    came_in: int = 0
    alone_since: float = field(default_factory=time.monotonic)
    noted: bool = False

    def grow(self) -> None:
        self.hired += 1
        worker, answer = self.hire(self.hired)
        self.at_work[answer] = (worker, [])

    def give(self, works: list[Work]) -> None:
        worker = self.idle.pop()
        self.at_work[worker.make.remote(works)] = (worker, works)

    def busy(self) -> bool:
        return any(works for _, works in self.at_work.values())

    def answers(self) -> Iterator[tuple[list[Work], Answer | None]]:
        """What came back since: the items that were given, and the worker's answer, or None when it died.

        Raises: what a worker raised.
        """
        done, _ = ray.wait(list(self.at_work), num_returns=1, timeout=PATIENCE_S) if self.at_work else ([], [])
        for answer in done:
            worker, works = self.at_work.pop(answer)
            try:
                found = ray.get(answer) or Answer([], {})
            except RayTaskError as error:
                raise (error.cause or error) from None
            except RayError:
                _kill(worker)  # out of reach is not always dead
                yield works, None
            else:
                self.came_in += not works
                self.idle.append(worker)
                yield works, found

    def tell_waiting(self, track: Track, options: dict[str, Any]) -> None:
        """Once, when for a while all workers have been on their way in: perhaps there is no room for one."""
        if self.idle or self.busy():
            self.alone_since = time.monotonic()
        elif not self.noted and time.monotonic() - self.alone_since > ROOM_S:
            self.noted = True
            there, free = ray.cluster_resources(), ray.available_resources()
            asked = {"CPU": options["num_cpus"], "GPU": options["num_gpus"]}
            asks = " and ".join(f"{count:g} {kind}" for kind, count in asked.items() if count)
            have = " and ".join(f"{free.get(kind, 0):g} of {there.get(kind, 0):g} {kind}" for kind in asked)
            track.note(f"--engine ray: still waiting for a worker, which asks for {asks}; free in the cluster: {have}")

    def why_empty(self) -> SmoothtoolError:
        """Why there is no worker at all."""
        if self.came_in:
            return SmoothtoolError("--engine ray: no worker stays alive", "fewer --workers, or ray status")
        hint = "pip install 'smoothtool[ray]' on every machine of the cluster, or fewer --workers"
        return SmoothtoolError("--engine ray: every worker died at its start", hint)

    def close(self) -> None:
        """A cluster that goes on without us wants its processors back at once."""
        for worker in [*self.idle, *(worker for worker, _ in self.at_work.values())]:
            _kill(worker)


def _kill(worker: Any) -> None:
    with suppress(RayError):
        ray.kill(worker)


def work_on_ray(
    batch: Batch, works: Sequence[Work], stopped: Callable[[], bool], *, workers: int | None, retry_failed: bool
) -> Generator[Work, None, None]:
    """Have every item made by the workers; each is handed out when it is settled.

    Raises: UsageError when there is no cluster where $RAY_ADDRESS says, or its machines do not share the folders;
    KeyboardInterrupt when asked to stop and there is more to do.
    """
    if not works:
        return  # a cluster takes seconds to start
    deaths = Counter[str]()
    with _cluster(workers) as (count, options), closing(_Crew(partial(_hire, batch, retry_failed, options))) as crew:
        queue = deque(in_groups(works, lambda: options["num_gpus"] > 0))
        for _ in range(min(count, len(queue))):
            crew.grow()
        while crew.busy() or (queue and not stopped()):
            if not crew.at_work and not crew.idle:
                raise crew.why_empty()
            crew.tell_waiting(batch.track, options)
            while queue and crew.idle and not stopped():
                crew.give(queue.popleft())
            for given, answer in crew.answers():
                for text in answer.notes if answer else ():
                    batch.track.note(text)
                batch.stuck |= answer.stuck if answer else {}
                yield from _settled(batch, given, queue, deaths, died=answer is None)
                if given and answer is None and queue:
                    crew.grow()
        if queue:
            raise KeyboardInterrupt


def _hire(batch: Batch, retry_failed: bool, options: dict[str, Any], number: int) -> tuple[Any, Any]:
    """A worker on its way in, and what will be its answer when it is there."""
    worker = ray.remote(Worker).options(**options).remote()
    environment = {name: text for name, text in os.environ.items() if name.startswith(OURS)}
    posting = Posting(number, batch.journal.folder, batch.names, retry_failed, os.getcwd(), environment)
    return worker, worker.start.remote(posting)


def _settled(
    batch: Batch, given: Sequence[Work], queue: deque[list[Work]], deaths: Counter[str], *, died: bool
) -> Iterator[Work]:
    """The items that are done with; the others go back to the queue, each on its own."""
    batch.journal.refresh()
    for work in given:
        deaths[work.name] += died
        if not batch.settle(work) and deaths[work.name] >= DEATHS:
            what = f"the process died {DEATHS} times while it made this, perhaps for lack of memory"
            with batch.journal.claim(work.name):  # takes away the lock that the dead have left
                batch.write_down(work, failure(SmoothtoolError(what, "fewer --workers")) | {"seconds": 0.0})
        if work.name in batch.outcomes:
            yield work
        elif batch.is_left(work):
            queue.append([work])


@contextmanager
def _cluster(workers: int | None) -> Iterator[tuple[int, dict[str, Any]]]:
    """How many workers there are to be, and what each asks for; connected to Ray meanwhile.

    The cluster is the one this program is connected to, else that of $RAY_ADDRESS, else one on this machine alone.
    """
    own = not ray.is_initialized()
    if own:
        _connect(workers)
    try:
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        gpus = sum(int(have.get("GPU", 0)) for have in machines)
        count = workers or gpus or len(machines)
        each = min(int(have.get("CPU", 1)) for have in machines) // -(-count // len(machines))
        yield (
            count,
            {"num_cpus": 1 if gpus else max(1, each), "num_gpus": int(gpus > 0), "scheduling_strategy": "SPREAD"},
        )
    finally:
        if own:
            ray.shutdown()


def _connect(workers: int | None) -> None:
    """Quietly, and with the handler of SIGTERM as it was: Ray brings its own.

    Raises: UsageError when nothing answers.
    """
    address = os.environ.get("RAY_ADDRESS", "local")
    cpus = max(workers or 1, os.cpu_count() or 1) if address == "local" else None
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, num_cpus=cpus)
    except Exception as error:  # Ray raises plain ones too
        why = str(error).strip().partition("\n")[0]
        if address == "local":
            raise UsageError(
                f"--engine ray: Ray does not start here ({why})", "try again, or without --engine"
            ) from error
        what = f"--engine ray: there is no Ray cluster at {address} ({why})"
        raise UsageError(what, "unset RAY_ADDRESS to work on this machine alone") from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)
