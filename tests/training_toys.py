"""What a training left: its log and its weights."""

from __future__ import annotations

import json
from typing import Any

import torch
from safetensors.torch import load_file

from smoothtool.types import Report


def log(report: Report) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (report.folder / "training.jsonl").read_text().splitlines()]


def weights(report: Report) -> dict[str, torch.Tensor]:
    return load_file(report.folder / "smooth-lora.safetensors")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """To the bit. Files are not compared, since the order of their header's entries is left to chance."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
