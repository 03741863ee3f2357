"""What a stretch of work cost: UNet calls, seconds, and the largest memory meanwhile."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from smoothtool.diffusion.model import DiffusionModel
from smoothtool.figures import CostFigures
from smoothtool.types import Report


@dataclass
class Cost:
    """Filled in when the stretch ends. `peak_memory_mb` counts the loaded model too; None where it cannot be read."""

    unet_calls: int = 0
    seconds: float = 0.0
    peak_memory_mb: float | None = None

    def figures(self) -> CostFigures:
        return {"unet_calls": self.unet_calls, "seconds": self.seconds, "peak_memory_mb": self.peak_memory_mb}


@contextmanager
def measured(model: DiffusionModel) -> Iterator[Cost]:
    cost, calls, started = Cost(), model.counter.calls, time.perf_counter()
    _forget_peak(model.device)
    try:
        yield cost
    finally:
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
        cost.unet_calls = model.counter.calls - calls
        cost.seconds = time.perf_counter() - started
        cost.peak_memory_mb = peak_memory_mb(model.device)


@contextmanager
def timed(report: Report, stage: str) -> Iterator[None]:
    """The seconds of a station, in the report."""
    started = time.perf_counter()
    yield
    report.seconds[stage] = time.perf_counter() - started


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        mark = os.open("/proc/self/clear_refs", os.O_WRONLY)
        os.write(mark, b"5")  # Linux: the high-water mark falls to what is used now
        os.close(mark)


def peak_memory_mb(device: torch.device) -> float | None:
    """The most memory held so far: on a GPU by tensors, elsewhere by the whole process; None where nobody counts."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    with suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(found[1]) * 1024 / 1e6 if found else None
    return None if sys.platform == "win32" else _peak_since_start_mb()


def _peak_since_start_mb() -> float:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
