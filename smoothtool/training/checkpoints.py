"""Checkpoints: one safetensors file each, whole or absent; the new one lies on disk before an old one goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from smoothtool.errors import ModelError
from smoothtool.files.storage.writing import atomic_path

KEPT = 2

Checkpoint = tuple[dict[str, torch.Tensor], dict[str, Any]]
"""Tensors, and facts as plain data."""


def write_checkpoint(folder: Path, step: int, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> Path:
    """Store the state after `step`, then drop all but it and the one before; later ones could not be read."""
    place = folder / "checkpoints"
    place.mkdir(exist_ok=True)
    path = place / f"step-{step:08d}.safetensors"
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"facts": json.dumps(facts)})
    kept = [each for each in checkpoint_paths(folder) if each.name <= path.name][:KEPT]
    for other in set(checkpoint_paths(folder)) - set(kept):
        other.unlink(missing_ok=True)
    return path


def checkpoint_paths(folder: Path) -> list[Path]:
    """The newest first."""
    return sorted((folder / "checkpoints").glob("step-*.safetensors"), reverse=True)


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that can be read; None when there is none.

    Raises: ModelError when there are some, and not one can be read.
    """
    for path in checkpoint_paths(folder):
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {})["facts"])
                return {key: file.get_tensor(key) for key in file.keys()}, facts  # noqa: SIM118 - not a dict
        except (OSError, SafetensorError, KeyError, ValueError):
            continue
    if checkpoint_paths(folder):
        raise ModelError(f"{folder}: none of its checkpoints can be read", "--force without --resume to begin again")
    return None
