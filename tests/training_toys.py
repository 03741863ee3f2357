"""What a training left: its log and its weights; trainings in processes of their own."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file
from toys import tiny_model

from smoothtool.commands.train import run as train
from smoothtool.jobs import TrainJob
from smoothtool.types import Report, Silent, Track, silent

T = TypeVar("T")


def processes() -> ForkServerContext:
    """New processes in which everything is imported already: one does so, in seconds, and the others are its copies."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([train.__name__])
    return context


def train_in_process(
    job: str, tokenizer: Path, environment: Mapping[str, str], threads: int = 1, track: Track = silent
) -> None:
    """Train a tiny model by a job as JSON, in a process that has this environment besides, on this many threads."""
    os.environ.update(environment)
    torch.set_num_threads(threads)
    train.open_session = lambda *_: tiny_model(tokenizer)
    train.run(TrainJob.model_validate(json.loads(job)), track)


class Killed(Silent):
    """Kills the process at the fourth step."""

    def __call__(self, items: Iterable[T], description: str, total: int) -> Iterator[T]:
        for index, item in enumerate(items):
            if description == "training" and index == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            yield item


def log(report: Report) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (report.folder / "training.jsonl").read_text().splitlines()]


def weights(report: Report) -> dict[str, torch.Tensor]:
    return load_file(report.folder / "smooth-lora.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """To the bit. Files are not compared, since the order of their header's entries is left to chance."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
