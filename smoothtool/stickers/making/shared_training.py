"""The UNet's training loop on a CPU: several one-thread processes on shared weights; resumable; no end is planned.

One-thread processes that each take a part of the batch do a quarter more than threads that meet in every layer, and a
busy machine does not bring them to a halt. The rate rises, stays, and falls only in a branch (`decay`): a finished copy
can be made at any moment, and the training goes on from the copy that has not decayed.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as multiprocessing
from torch import nn

from smoothtool.files.storage.records import append_record
from smoothtool.files.storage.writing import atomic_path
from smoothtool.stickers.making.muon import MuonAdamW

BANDS = 5  # of times, for the log
AVERAGE, AVERAGE_EVERY = 0.9995, 4
LOG_EVERY = 50


@dataclass(frozen=True)
class Plan:
    """From step `first` to `last`, at a rate that rises over `warmup` steps, or falls to zero over all of them.

    batch: samples a step. workers: processes of one thread each, which share them. minutes: stop after so long.
    Parameters whose names begin with `frozen` learn before step `frozen_from` only.
    """

    first: int
    last: int
    rate: float
    batch: int
    workers: int = 1
    warmup: int = 300
    decay: bool = False
    frozen_from: int = 0
    frozen: str = "text_encoder."
    minutes: float = float("inf")
    save_every: int = 250
    device: str = "cpu"
    compiled: bool = False

    def rate_at(self, step: int) -> float:
        if self.decay:
            return self.rate * (1 - ((step - self.first) / (self.last - self.first + 1)) ** 0.5)
        return self.rate * min(1.0, step / self.warmup)

    def learns(self, name: str, step: int) -> bool:
        return not (name.startswith(self.frozen) and step >= self.frozen_from)


@dataclass
class Shared:
    """What all processes see: weights, moments, average, each process's gradient, the losses of the step, `stop`."""

    model: nn.Module
    optimizer: MuonAdamW
    averaged: dict[str, torch.Tensor]
    gradients: list[dict[str, torch.Tensor]] = field(default_factory=list)
    losses: torch.Tensor = field(default_factory=lambda: torch.zeros(0))
    stop: torch.Tensor = field(default_factory=lambda: torch.zeros(1))


def share(model: nn.Module, saved: dict[str, Any] | None, plan: Plan) -> Shared:
    """The state to train, with that of a checkpoint where there is one; torch moves it to shared memory when sent."""
    if saved is not None:
        model.load_state_dict(saved["model"])
    model.to(plan.device)
    parameters = dict(model.named_parameters())
    optimizer, averaged = MuonAdamW(parameters), {name: p.detach().clone() for name, p in parameters.items()}
    if saved is not None:
        for mine, kind in ((optimizer.first, "first"), (optimizer.second, "second"), (averaged, "averaged")):
            for name, value in mine.items():
                value.copy_(saved[kind][name])
    gradients = [{name: torch.zeros_like(p) for name, p in parameters.items()} for _ in range(plan.workers)]
    return Shared(model, optimizer, averaged, gradients, torch.zeros(plan.batch, device=plan.device))


def save(shared: Shared, path: Path, step: int) -> None:
    """A kill leaves the old checkpoint or the new one."""
    state = {
        "model": shared.model.state_dict(),
        "averaged": shared.averaged,
        "step": step,
        "first": shared.optimizer.first,
        "second": shared.optimizer.second,
    }
    with atomic_path(path) as temporary:
        torch.save(state, temporary)


Batch = dict[str, torch.Tensor]
Station = tuple[Callable[[int | None], Batch], Callable[[nn.Module, Batch], torch.Tensor]]
"""The batch of a step, or of torch's generator for None; `velocity` and `timesteps` are among its rows. What the model
predicts for rows of it."""


def train_shared(shared: Shared, plan: Plan, path: Path, make: Callable[[], Station]) -> None:
    """Run `plan`, saving to `path`, logging beside it. Every process has a station of its own, from `make()`.

    A process that dies ends the training: threading.BrokenBarrierError, and its own error on the screen.
    """
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(plan.workers)
    others = [
        context.Process(target=_work, args=(rank, shared, plan, path, make, barrier), daemon=True)
        for rank in range(1, plan.workers)
    ]
    for process in others:
        process.start()
    for process in others:
        threading.Thread(target=_end_with, args=(process, barrier), daemon=True).start()
    _work(0, shared, plan, path, make, barrier)
    for process in others:
        process.join()


def _end_with(process: Any, barrier: Any) -> None:
    """Without this the others would wait at the barrier for ever."""
    process.join()
    if process.exitcode:
        barrier.abort()


def _work(rank: int, shared: Shared, plan: Plan, path: Path, make: Callable[[], Station], barrier: Any) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    (batch_of, prediction_of), parameters = make(), shared.optimizer.parameters
    mine, log = set(_by_size(parameters)[rank :: plan.workers]), Log(path.with_suffix(".jsonl"))
    part = slice(rank * plan.batch // plan.workers, (rank + 1) * plan.batch // plan.workers)
    for step in range(plan.first, plan.last + 1):
        names = [name for name in parameters if plan.learns(name, step)]
        for name, parameter in parameters.items():
            parameter.requires_grad_(plan.learns(name, step))
        batch = batch_of(step)
        rows = {key: value[part] for key, value in batch.items()}
        errors = (prediction_of(shared.model, rows) - rows["velocity"]).square().mean(dim=(1, 2, 3))
        gradients = torch.autograd.grad(errors.mean(), [parameters[name] for name in names])
        for name, gradient in zip(names, gradients, strict=True):
            shared.gradients[rank][name].copy_(gradient)
        shared.losses[part] = errors.detach()
        barrier.wait()
        owned = [name for name in names if name in mine]
        mean = {name: sum((each[name] for each in shared.gradients), torch.zeros(())) / plan.workers for name in owned}
        shared.optimizer.step(mean, owned, plan.rate_at(step), step)
        if step % AVERAGE_EVERY == 0:
            _average(shared, owned, step)
        if rank == 0:
            log.add(step, shared.losses, batch["timesteps"])
            shared.stop += log.seconds > 60 * plan.minutes
        barrier.wait()
        last = step == plan.last or (plan.minutes < float("inf") and bool(shared.stop))
        if rank == 0 and (last or step % plan.save_every == 0):
            save(shared, path, step)
        if last:
            return


def _by_size(parameters: dict[str, nn.Parameter]) -> list[str]:
    """Dealt out in turn, every process has as much to update."""
    return sorted(parameters, key=lambda name: (-parameters[name].numel(), name))


@torch.no_grad()
def _average(shared: Shared, names: list[str], step: int) -> None:
    decay = min(AVERAGE, (1 + step) / (10 + step)) ** AVERAGE_EVERY
    for name in names:
        shared.averaged[name].lerp_(shared.optimizer.parameters[name], 1 - decay)


class Log:
    """A line of mean losses, whole and by band of times, every LOG_EVERY steps."""

    def __init__(self, path: Path) -> None:
        self.path, self.started = path, time.monotonic()
        self.losses: list[torch.Tensor] = []
        self.timesteps: list[torch.Tensor] = []

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def add(self, step: int, losses: torch.Tensor, timesteps: torch.Tensor) -> None:
        self.losses.append(losses.clone())
        self.timesteps.append(timesteps)
        if step % LOG_EVERY == 0:
            values, bands = torch.cat(self.losses), torch.cat(self.timesteps) * BANDS // 1000
            means = [round(float(values[bands == band].mean()), 4) for band in range(BANDS)]
            row = {
                "step": step,
                "seconds": round(self.seconds, 1),
                "loss": round(float(values.mean()), 5),
                "bands": means,
            }
            append_record(self.path, row)
            print(json.dumps(row), flush=True)
            self.losses, self.timesteps = [], []
