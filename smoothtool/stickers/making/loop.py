"""What the three trainings share: a resumable loop with a cosine rate, an average of the weights, and a log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from smoothtool.files.storage.records import append_record
from smoothtool.files.storage.writing import atomic_path


def cosine_rate(step: int, steps: int, peak: float, *, warmup: int = 200, floor: float = 0.02) -> float:
    if step < warmup:
        return peak * (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))


class Run:
    """One training: model, AdamW, exponential average, checkpoint `NAME.pt` in `work`, log `NAME.jsonl`.

    A kill leaves the old checkpoint or the new one.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        work: Path,
        *,
        rate: float,
        steps: int,
        weight_decay: float = 1e-2,
        average: float = 0.999,
    ) -> None:
        self.name, self.model, self.work, self.rate, self.steps, self.average = name, model, work, rate, steps, average
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=rate, weight_decay=weight_decay, betas=(0.9, 0.99))
        self.step = 0
        self.averaged = {k: v.detach().clone().float() for k, v in model.state_dict().items()}
        path = work / f"{name}.pt"
        if path.exists():
            saved = torch.load(path, weights_only=True)
            model.load_state_dict(saved["model"])
            self.optimizer.load_state_dict(saved["optimizer"])
            self.averaged, self.step = saved["averaged"], saved["step"]

    def save(self) -> None:
        path = self.work / f"{self.name}.pt"
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averaged": self.averaged,
            "step": self.step,
        }
        with atomic_path(path) as temporary:
            torch.save(state, temporary)

    def averaged_weights(self) -> dict[str, torch.Tensor]:
        return {k: v.to(self.model.state_dict()[k].dtype) for k, v in self.averaged.items()}

    def train(
        self,
        loss_of: Callable[[int], dict[str, torch.Tensor]],
        *,
        save_every: int = 100,
        measure: Callable[[], dict[str, float]] | None = None,
    ) -> None:
        """Run to `steps`. `loss_of(step)` gives named scalars, `loss` among them; randomness comes from the step."""
        for step in self._steps():
            torch.manual_seed(step)
            losses = loss_of(step)
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(losses["loss"])
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.param_groups[0]["lr"] = cosine_rate(step, self.steps, self.rate)
            self.optimizer.step()
            self._update_average()
            if self.step % 20 == 0:
                self._log({k: float(v.detach()) for k, v in losses.items()})
            if self.step % save_every == 0 or self.step == self.steps:
                self.save()
                if measure is not None:
                    self._log(measure())

    def _steps(self) -> Iterator[int]:
        self.started = time.monotonic()
        while self.step < self.steps:
            self.step += 1
            yield self.step

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.average, (1 + self.step) / (10 + self.step))
        for key, value in self.model.state_dict().items():
            self.averaged[key].lerp_(value.float(), 1 - decay)

    def _log(self, values: dict[str, float]) -> None:
        row = {"step": self.step, "seconds": round(time.monotonic() - self.started, 1), **values}
        append_record(self.work / f"{self.name}.jsonl", row)
        print(
            self.name,
            " ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()),
            flush=True,
        )
