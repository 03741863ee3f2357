"""A small training on pictures of noise, for every test of `train`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toys import tiny_model

from smoothtool.commands.train import run as train
from smoothtool.jobs import TrainJob

CAPTIONS = ["a cat", "a dog", "red cake", "a fox on blue", "a red dog"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    random = np.random.default_rng(0)
    for index, caption in enumerate(CAPTIONS):
        levels = random.integers(0, 255, (40, 32 if index % 2 else 64, 3), dtype=np.uint8)
        Image.fromarray(levels).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(caption)
    return folder


@pytest.fixture
def job(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TrainJob]:
    """A maker of small jobs: rank 2, two pictures a batch, on the CPU."""
    monkeypatch.setenv("SMOOTHTOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(train, "open_session", lambda job, track, pool=None: tiny_model(tmp_path / "tokenizer"))

    def make(**settings: Any) -> TrainJob:
        small = {
            "data": str(data),
            "max_steps": 4,
            "batch_size": 2,
            "rank": 2,
            "device": "cpu",
            "seed": 3,
            "checkpoint_every": 2,
            "output": tmp_path / "out",
            "learning_rate": 1e-2,
        }
        return TrainJob(**{**small, **settings})

    return make
