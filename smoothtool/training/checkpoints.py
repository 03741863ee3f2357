"""Checkpoints: one safetensors file each, whole or absent; the new one lies on disk before an old one goes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from smoothtool.errors import ModelError, storage_error
from smoothtool.files.storage.tensors import read_sealed, write_tensors
from smoothtool.jobs.options import SEED_END
from smoothtool.readers.fields import as_fields, parse_json

KEPT = 2

Checkpoint = tuple[dict[str, torch.Tensor], dict[str, Any]]
"""Tensors, and facts as plain data."""


def write_checkpoint(folder: Path, step: int, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> Path:
    """Store the state after `step`, then drop all but it and the one before; later ones could not be read.

    Raises: StorageError; the checkpoint before it then stays.
    """
    path = folder / "checkpoints" / f"step-{step:08d}.safetensors"
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise storage_error(path, error) from error
    write_tensors(path, tensors, {"facts": json.dumps(facts)}, seal=True)
    kept = [each for each in checkpoint_paths(folder) if each.name <= path.name][:KEPT]
    for other in set(checkpoint_paths(folder)) - set(kept):
        other.unlink(missing_ok=True)
    return path


def checkpoint_paths(folder: Path) -> list[Path]:
    """The newest first."""
    return sorted((folder / "checkpoints").glob("step-*.safetensors"), reverse=True)


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; None when there is none.

    Raises: ModelError when there are some, and not one can be read.
    """
    for path in checkpoint_paths(folder):
        try:
            tensors, metadata = read_sealed(path, known=True)
            facts = as_fields(parse_json(metadata.get("facts", ""), str(path), ModelError), str(path), ModelError)
            facts.whole("step")
            facts.fields("identity").whole("seed", high=SEED_END - 1)
            return tensors, dict(facts.values)
        except ModelError:
            continue
    if checkpoint_paths(folder):
        raise ModelError(f"{folder}: none of its checkpoints can be read", "--force without --resume to begin again")
    return None
