"""Fixtures for every room."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from smoothtool.diffusion.model import DiffusionModel

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from smoothtool.threads import limit_spinning

limit_spinning()  # before anything loads torch: tests/test_threads.py
if os.environ.get("PYTEST_XDIST_WORKER"):
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes share the cores already


@pytest.fixture
def model(tmp_path: Path) -> DiffusionModel:
    """A fresh tiny random Stable Diffusion: the test may change it."""
    from toys import tiny_model

    return tiny_model(tmp_path / "tokenizer")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random Stable Diffusion, which no test changes."""
    from batch_toys import saved_tiny_model

    return saved_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def tiny_xl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random Stable Diffusion XL, which no test changes."""
    from batch_toys import saved_tiny_model

    return saved_tiny_model(tmp_path_factory.mktemp("tiny-xl"), xl=True)
