"""The figures of a training in TensorBoard or Weights & Biases, beside `training.jsonl`, which is always written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker
from accelerate.utils import is_tensorboard_available, is_wandb_available

from smoothtool.errors import UsageError

AVAILABLE = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available}


def check_tracker(name: str) -> None:
    """Raises: UsageError when the package of the tracker is not installed."""
    if name != "none" and not AVAILABLE[name]():
        raise UsageError(f"--tracker {name} needs {name}, which is not installed", f"pip install 'smoothtool[{name}]'")


def open_tracker(name: str, folder: Path) -> GeneralTracker | None:
    """TensorBoard's files go to `folder`/tensorboard; W&B knows its account and place from its own settings."""
    if name == "none":
        return None
    tracker = TensorBoardTracker("tensorboard", folder) if name == "tensorboard" else WandBTracker("smoothtool")
    tracker.start()
    return tracker


def track_step(tracker: GeneralTracker, record: Mapping[str, Any]) -> None:
    """One line of the log; the means per timestep band come as `n/0-249` and so on."""
    bands = {f"{name}/{band}": value for band, row in record.get("bands", {}).items() for name, value in row.items()}
    flat = {key: value for key, value in {**record, **bands}.items() if key not in ("step", "bands")}
    tracker.log({key: value for key, value in flat.items() if value is not None}, step=record["step"])
