"""Jobs one after another in a child process, each with its share of the time: one that hangs is stopped, the rest come.

The child stays for the next job, so that what it imported and loaded is loaded once. One that is stopped is ended with
everything that it started, and the next job has a new child.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from itertools import groupby
from multiprocessing.connection import Connection
from typing import Any

SHARE = 1 / 2
"""Of its part's time that is left, the most that one job may take."""
LEAST_S = 10.0
"""A share is no shorter than this while its part has so much time left."""
LEAST_USEFUL_S = 1.0
"""Nothing is begun in less."""
NO_TIME = "left out: no time"


@dataclass(frozen=True)
class Task:
    """A job and its place in the tables: the function by `module:name`, so that the parent need not import it."""

    part: str
    names: dict[str, Any]
    function: str
    arguments: tuple[Any, ...] = field(default=())


class OverTimeError(Exception):
    """A job was not done within its share of the time, and was stopped."""


class JobFailedError(Exception):
    """Why a job gave nothing: its own error, or the end of its process, by too much memory or a fault of the device."""


class Child:
    """The process that the jobs run in; `modules` are imported before a job's time begins."""

    def __init__(self, modules: Sequence[str] = ()) -> None:
        self._modules = tuple(modules)
        self._process: Any = None
        self._connection: Connection | None = None

    def start(self, within_s: float) -> None:
        """A child that is there already is kept.

        Raises: OverTimeError, JobFailedError: the imports are not done by then, or one of them fails.
        """
        if self._process is not None:
            return
        spawn = multiprocessing.get_context("spawn")  # a forked process cannot use a GPU that its parent has used
        self._connection, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, self._modules))
        self._process.start()
        theirs.close()
        self._answer(within_s)

    def call(self, function: str, arguments: Sequence[Any], within_s: float) -> Any:
        """What the function gives. Raises: OverTimeError, JobFailedError."""
        started = time.perf_counter()
        self.start(within_s)
        assert self._connection is not None
        self._connection.send((function, tuple(arguments)))
        return self._answer(within_s - (time.perf_counter() - started))

    def stop(self) -> None:
        """End the child and all that it started; nothing happens where there is none."""
        process, connection = self._process, self._connection
        self._process = self._connection = None
        if process is None or connection is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
        connection.close()

    def _answer(self, within_s: float) -> Any:
        assert self._connection is not None
        try:
            if not self._connection.poll(max(0.0, within_s)):
                self.stop()
                raise OverTimeError
            value, error = self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join(5)
            code = self._process.exitcode
            self.stop()
            raise JobFailedError(f"the process ended with {code}") from None
        if error:
            raise JobFailedError(error)
        return value


@contextmanager
def child(modules: Sequence[str] = ()) -> Iterator[Child]:
    """A child that is ended when the stretch of work is, however it ends."""
    made = Child(modules)
    try:
        yield made
    finally:
        made.stop()


def share_s(left_s: float) -> float:
    """Seconds that the next job may take."""
    return min(left_s, max(left_s * SHARE, LEAST_S))


def rows(tasks: Sequence[Task], worker: Child, until: float) -> Iterator[tuple[str, dict[str, Any]]]:
    """The part and the row of every task, in their order: its figures, or the reason for which there are none.

    Each part has an equal share of the time that the parts before it left.

    until   when all is over, by `time.perf_counter`
    """
    parts = [list(group) for _, group in groupby(tasks, key=lambda task: task.part)]
    for index, part in enumerate(parts):
        now = time.perf_counter()
        part_until = now + (until - now) / (len(parts) - index)
        for task in part:
            yield task.part, {**task.names, **_figures(task, worker, part_until, until)}


def _figures(task: Task, worker: Child, part_until: float, until: float) -> dict[str, Any]:
    within_s = 0.0
    try:
        if part_until - time.perf_counter() >= LEAST_USEFUL_S:
            worker.start(until - time.perf_counter())
            within_s = share_s(part_until - time.perf_counter())
        if within_s < LEAST_USEFUL_S:
            return {"note": NO_TIME}
        return {"note": "", **worker.call(task.function, task.arguments, within_s)}
    except OverTimeError:  # of the job, or of the start of its process
        return {"note": f"not within {within_s:.0f} s" if within_s else NO_TIME}
    except JobFailedError as error:  # a table with a hole says more than a traceback after eight minutes
        return {"note": f"error: {error}"}


def _serve(connection: Connection, modules: Sequence[str]) -> None:
    os.setsid()  # what a job starts is in this process's group, and is ended with it
    calls: Iterator[tuple[str, tuple[Any, ...]]] = iter(connection.recv, None)
    with suppress(EOFError, BrokenPipeError):  # the parent is gone
        connection.send(_tried(_import_all, (modules,)))
        for function, arguments in calls:
            connection.send(_tried(_call, (function, arguments)))


def _import_all(modules: Sequence[str]) -> None:
    for module in modules:
        import_module(module)


def _call(function: str, arguments: Sequence[Any]) -> Any:
    module, name = function.split(":")
    return getattr(import_module(module), name)(*arguments)


def _tried(function: Callable[..., Any], arguments: Sequence[Any]) -> tuple[Any, str]:
    """What the function gives, and the first line of its error: many an exception cannot be sent itself."""
    try:
        return function(*arguments), ""
    except Exception as error:
        line = (str(error).strip().splitlines() or [""])[0]
        return None, f"{type(error).__name__}: {line[:160]}"
