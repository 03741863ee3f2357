"""Fixtures for every room."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from smoothtool.threads import limit_spinning

limit_spinning()  # before any test file loads torch


@pytest.fixture
def model(tmp_path: Path):
    """A fresh tiny random Stable Diffusion: the test may change it."""
    from toys import tiny_model

    return tiny_model(tmp_path / "tokenizer")
