"""The UNet's training loop on a GPU: a step, from drawing its batch to moving the weights, is one CUDA graph.

A UNet this small leaves a GPU waiting for its next kernel; from a graph, an H200 learns 10,200 samples a second in
steps of 512. The batches come from torch's own generator there, so a run repeats by its seed but not step by step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from smoothtool.stickers.making.shared_training import AVERAGE, Batch, Log, Plan, Shared, Station, save

WARM_UP_STEPS = 3
"""Before a step is captured, libraries choose their algorithms; nothing moves, for the rate is 0."""


def train_captured(shared: Shared, plan: Plan, path: Path, make: Callable[[], Station]) -> None:
    """Run `plan` in this process, saving to `path`, logging beside it. On a CPU the same step runs uncaptured.

    What learns is decided at the plan's first step.
    """
    torch.set_float32_matmul_precision("high")
    (batch_of, prediction_of), log = make(), Log(path.with_suffix(".jsonl"))
    model: Any = torch.compile(shared.model, dynamic=False) if plan.compiled else shared.model
    rate, count = (torch.tensor(value, device=plan.device) for value in (0.0, float(plan.first - 1)))
    losses, times = (torch.zeros(plan.batch, device=plan.device) for _ in range(2))

    def step() -> None:
        count.add_(1)
        errors, timesteps = _learn(shared, plan, batch_of(None), partial(prediction_of, model), rate, count)
        losses.copy_(errors)
        times.copy_(timesteps)

    replay = _captured(step) if plan.device != "cpu" else step
    count.fill_(plan.first - 1)
    for number in range(plan.first, plan.last + 1):
        rate.fill_(plan.rate_at(number))
        replay()
        log.add(number, losses, times.clone())
        last = number == plan.last or log.seconds > 60 * plan.minutes
        if last or number % plan.save_every == 0:
            save(shared, path, number)
        if last:
            return


def _learn(
    shared: Shared,
    plan: Plan,
    batch: Batch,
    predict: Callable[[Batch], torch.Tensor],
    rate: torch.Tensor,
    count: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step; (squared errors, timesteps) of its samples. `rate` and `count` are numbers on the device."""
    parameters = shared.optimizer.parameters
    names = [name for name in parameters if plan.learns(name, plan.first)]
    with torch.autocast(plan.device, torch.bfloat16, enabled=plan.device != "cpu", cache_enabled=False):
        errors = (predict(batch).float() - batch["velocity"]).square().mean(dim=(1, 2, 3))
    gradients = torch.autograd.grad(errors.mean(), [parameters[name] for name in names])
    shared.optimizer.step(dict(zip(names, gradients, strict=True)), names, rate, count)
    with torch.no_grad():
        share = 1 - torch.clamp((1 + count) / (10 + count), max=AVERAGE)
        for name in names:
            shared.averaged[name].lerp_(parameters[name], share)
    return errors.detach(), batch["timesteps"]


def _captured(step: Callable[[], None]) -> Callable[[], None]:
    """`step` as a CUDA graph; replaying it costs one launch."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP_STEPS):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
