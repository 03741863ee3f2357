"""The UNet's training loop: several one-thread processes on shared weights, resumable, with a rate that never runs out.

One-thread processes that each take a part of the batch do a quarter more than threads that meet in every layer, and a
busy machine does not bring them to a halt. The rate rises, stays, and falls only in a branch (`decay`): a finished copy
can be made at any moment, and the training goes on from the copy that has not decayed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as multiprocessing
from torch import nn

from smoothtool.weights.making.muon import MuonAdamW

CHUNKS = 2  # parts of a batch; how many processes share them does not change the result but for rounding
BANDS = 5  # of times, for the log
AVERAGE, AVERAGE_EVERY = 0.9995, 4
SAVE_EVERY, LOG_EVERY = 250, 50


@dataclass
class Plan:
    """From `first` to `last` step at a rate that rises over `warmup` steps, or falls to zero over all of them."""

    first: int
    last: int
    rate: float
    warmup: int = 300
    decay: bool = False
    frozen_from: int = 0
    frozen: str = "text_encoder."

    def rate_at(self, step: int) -> float:
        if self.decay:
            return self.rate * (1 - ((step - self.first) / (self.last - self.first + 1)) ** 0.5)
        return self.rate * min(1.0, step / self.warmup)

    def learns(self, name: str, step: int) -> bool:
        return not (name.startswith(self.frozen) and step >= self.frozen_from)


@dataclass
class Shared:
    """What all processes see: the weights, the moments, the average, and every part's gradient."""

    model: nn.Module
    optimizer: MuonAdamW
    averaged: dict[str, torch.Tensor]
    gradients: list[dict[str, torch.Tensor]] = field(default_factory=list)
    losses: torch.Tensor = field(default_factory=lambda: torch.zeros(0))


def share(model: nn.Module, saved: dict[str, Any] | None, *, batch: int) -> Shared:
    """Weights in shared memory, with the state of a checkpoint where there is one."""
    if saved is not None:
        model.load_state_dict(saved["model"])
    model.share_memory()
    parameters = dict(model.named_parameters())
    averaged = {name: p.detach().clone().share_memory_() for name, p in parameters.items()}
    optimizer = MuonAdamW(parameters)
    if saved is not None:
        for mine, stored in ((optimizer.first, saved["first"]), (optimizer.second, saved["second"]),
                             (averaged, saved["averaged"])):  # fmt: skip
            for name, value in mine.items():
                value.copy_(stored[name])
    gradients = [{name: torch.zeros_like(p).share_memory_() for name, p in parameters.items()} for _ in range(CHUNKS)]
    return Shared(model, optimizer, averaged, gradients, torch.zeros(batch).share_memory_())


def save(shared: Shared, path: Path, step: int) -> None:
    """Written beside and renamed: a kill leaves the old checkpoint or the new one."""
    state = {"model": shared.model.state_dict(), "averaged": shared.averaged, "step": step,
             "first": shared.optimizer.first, "second": shared.optimizer.second}  # fmt: skip
    torch.save(state, path.with_suffix(".tmp"))
    os.replace(path.with_suffix(".tmp"), path)


BatchOf = Callable[[int], dict[str, Any]]
PredictionOf = Callable[[nn.Module, dict[str, Any]], torch.Tensor]


def train_shared(shared: Shared, plan: Plan, path: Path, make: Callable[[], tuple[BatchOf, PredictionOf]], *,
                 workers: int, compiled: bool = False) -> None:  # fmt: skip
    """Run `plan`. `make()` gives, in each process, the batch of a step and how the model predicts its target."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(workers)
    rest = (workers, shared, plan, path, make, barrier, compiled)
    others = [context.Process(target=_work, args=(rank, *rest), daemon=True) for rank in range(1, workers)]
    for process in others:
        process.start()
    _work(0, *rest)
    for process in others:
        process.join()


def _work(rank: int, workers: int, shared: Shared, plan: Plan, path: Path,
          make: Callable[[], tuple[BatchOf, PredictionOf]], barrier: Any, compiled: bool) -> None:  # fmt: skip
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    batch_of, prediction_of = make()
    model, parameters = shared.model, shared.optimizer.parameters
    called = torch.compile(model) if compiled else model
    mine = _share_of_work(parameters, rank, workers)
    log = _Log(path.with_suffix(".jsonl"))
    for step in range(plan.first, plan.last + 1):
        names = [name for name in parameters if plan.learns(name, step)]
        for name, parameter in parameters.items():
            parameter.requires_grad_(plan.learns(name, step))
        batch = batch_of(step)
        size = len(shared.losses) // CHUNKS
        for chunk in range(rank, CHUNKS, workers):
            part = slice(chunk * size, (chunk + 1) * size)
            rows = {key: value[part] for key, value in batch.items()}
            errors = (prediction_of(called, rows) - rows["velocity"]).square().mean(dim=(1, 2, 3))
            gradients = torch.autograd.grad(errors.mean(), [parameters[name] for name in names])
            for name, gradient in zip(names, gradients, strict=True):
                shared.gradients[chunk][name].copy_(gradient)
            shared.losses[part] = errors.detach()
        barrier.wait()
        owned = [name for name in names if name in mine]
        mean = {name: sum(part[name] for part in shared.gradients) / CHUNKS for name in owned}
        shared.optimizer.step(mean, owned, plan.rate_at(step), step)
        if step % AVERAGE_EVERY == 0:
            _average(shared, owned, step)
        if rank == 0:
            log.add(step, shared.losses, batch["timesteps"])
        barrier.wait()
        if rank == 0 and (step % SAVE_EVERY == 0 or step == plan.last):
            save(shared, path, step)


def _share_of_work(parameters: dict[str, nn.Parameter], rank: int, workers: int) -> set[str]:
    """Parameters by size, dealt out in turn."""
    by_size = sorted(parameters, key=lambda name: (-parameters[name].numel(), name))
    return set(by_size[rank::workers])


@torch.no_grad()
def _average(shared: Shared, names: list[str], step: int) -> None:
    decay = min(AVERAGE, (1 + step) / (10 + step)) ** AVERAGE_EVERY
    for name in names:
        shared.averaged[name].lerp_(shared.optimizer.parameters[name], 1 - decay)


class _Log:
    """A line of mean losses, whole and by band of times, every LOG_EVERY steps."""

    def __init__(self, path: Path) -> None:
        self.path, self.started = path, time.monotonic()
        self.sums, self.counts = torch.zeros(BANDS), torch.zeros(BANDS)

    def add(self, step: int, losses: torch.Tensor, timesteps: torch.Tensor) -> None:
        bands = timesteps * BANDS // 1000
        self.sums.index_add_(0, bands, losses)
        self.counts.index_add_(0, bands, torch.ones_like(losses))
        if step % LOG_EVERY == 0:
            means = [round(value, 4) for value in (self.sums / self.counts).tolist()]
            row = {"step": step, "seconds": round(time.monotonic() - self.started, 1),
                   "loss": round(float(self.sums.sum() / self.counts.sum()), 5), "bands": means}  # fmt: skip
            with self.path.open("a") as log:
                log.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
            self.sums.zero_(), self.counts.zero_()
