"""The loop of `train`: step, log, show, checkpoint, sample walks; and how signals end it."""

from __future__ import annotations

import math
import signal
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch

from smoothtool.commands.shared.cost import peak_memory_mb
from smoothtool.commands.train.results import LOG, TrainingRun, identity, write_walks
from smoothtool.errors import StorageError
from smoothtool.files.storage.records import append_record
from smoothtool.training.checkpoints import write_checkpoint
from smoothtool.training.trackers import open_tracker, track_step
from smoothtool.training.trainer import Trainer, TrainStep

SHOWN_EVERY_S = 0.25
RECENT = 20
"""Steps whose mean speed is shown."""


def train_to_the_end(state: TrainingRun) -> None:
    """Step, log, checkpoint. The first Ctrl-C finishes the step and writes a checkpoint, the second stops at once."""
    trainer, job, meter = state.trainer, state.job, _Meter(state)
    remaining = job.max_steps - trainer.step
    with _stopped_by_signals() as stop:
        for step in state.track(trainer.steps(), "training", max(0, remaining)):
            meter.see(step)
            stopping = _any_process(trainer, bool(stop))
            last = step.step == job.max_steps or stopping
            if state.is_main and (last or step.step % job.checkpoint_every == 0):
                _checkpoint(state, step.step)
                state.track.note(meter.text())
            if state.is_main and job.sample_every and step.step % job.sample_every == 0:
                write_walks(state, step.step)
            if stopping:
                state.track.note(f"stopped after step {step.step}; go on with --resume -o {state.report.folder}")
                break
    meter.close()


class _Meter:
    """Logs every step, and shows the newest a few times a second: all figures are on the host already."""

    def __init__(self, state: TrainingRun) -> None:
        self.state = state
        self.recent: deque[TrainStep] = deque(maxlen=RECENT)
        self.at_once = state.trainer.at_once
        self.shown = -math.inf
        self.tracker = open_tracker(state.job.tracker, state.folder) if state.is_main else None

    def see(self, step: TrainStep) -> None:
        self.recent.append(step)
        if self.state.is_main:
            record = {**asdict(step), "samples_per_s": round(self._speed(), 3), "peak_memory_mb": self._memory_mb()}
            append_record(self.state.folder / LOG, record)
            if self.tracker is not None:
                track_step(self.tracker, record)
        if step.at_once < self.at_once:
            self.at_once = step.at_once
            self.state.track.note(
                f"step {step.step}: out of memory; from here {step.at_once} at once, added up to the same batch"
            )
        if time.perf_counter() - self.shown > SHOWN_EVERY_S:
            self.state.track.status(self.text())
            self.shown = time.perf_counter()

    def close(self) -> None:
        if self.tracker is not None:
            self.tracker.finish()

    def text(self) -> str:
        step, memory = self.recent[-1], self._memory_mb()
        figures = {"loss": step.base_loss, "regulariser": step.regulariser, "running mean": step.running_mean}
        known = [f"{name} {value:.4g}" for name, value in figures.items() if value is not None]
        most = [f"{memory:.0f} MB at most"] if memory else []
        return f"step {step.step}: " + ", ".join([*known, f"{self._speed():.3g} samples/s", *most])

    def _speed(self) -> float:
        return sum(step.samples for step in self.recent) / sum(step.seconds for step in self.recent)

    def _memory_mb(self) -> float | None:
        return peak_memory_mb(self.state.trainer.model.device)


def _checkpoint(state: TrainingRun, step: int) -> None:
    tensors, facts = state.trainer.state()
    try:
        write_checkpoint(state.folder, step, tensors, {**facts, "identity": identity(state)})
    except StorageError as error:
        hint = "make room, then --resume goes on from the checkpoint before it"
        raise StorageError(error.what, hint, full=error.full) from error


def _any_process(trainer: Trainer, stop: bool) -> bool:
    """All processes leave after the same step, or those that stay would wait for ever."""
    if trainer.accelerator.num_processes == 1:
        return stop
    return bool(trainer.accelerator.gather(torch.tensor([stop], device=trainer.accelerator.device)).any())


@contextmanager
def _stopped_by_signals() -> Iterator[list[int]]:
    """Signals arrive in the list handed out; one that did is raised again at the end, as it would have been."""
    arrived: list[int] = []
    ending = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    watched = [number for number in ending if signal.getsignal(number) is not signal.SIG_IGN]

    def note(number: int, frame: Any) -> None:
        arrived.append(number)
        for each in watched:
            signal.signal(each, before[each])

    try:
        before = {each: signal.signal(each, note) for each in watched}
    except ValueError:  # not in the main thread, where no signal arrives either
        before = {}
    try:
        yield arrived
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    if arrived:
        signal.raise_signal(arrived[0])
