"""What a command did, as `report.json`, and how to do it again, as `job.yaml`."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from smoothtool.files.storage.leftovers import sweep_leftovers
from smoothtool.files.storage.writing import plain, write_json_atomic, write_yaml
from smoothtool.types import Report
from smoothtool.version import __version__

PACKAGES = ("torch", "diffusers", "transformers", "peft")


def versions() -> dict[str, str]:
    """Installed versions of what a result depends on, read without importing any of it."""
    found = {"smoothtool": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def report_dict(report: Report) -> dict[str, Any]:
    """Plain data in the order a person reads it; files inside the folder relative to it, seconds to milliseconds.

    Raises: TypeError when a figure is not plain data.
    """
    return plain(
        {
            "command": report.command,
            "folder": report.folder,
            "files": _relative(report.files, report.folder),
            "figures": report.figures,
            "notes": report.notes,
            "seconds": {stage: round(seconds, 3) for stage, seconds in report.seconds.items()},
            "unet_calls": report.unet_calls,
            "model": report.model,
            "job": report.job,
            "versions": report.versions or versions(),
        }
    )


def write_report(report: Report, folder: Path, recipe: Mapping[str, Any]) -> None:
    """Write `report.json`, and the recipe as `job.yaml`, into `folder` (while it is filled, not yet `report.folder`).

    A folder that commands go on with is swept: runs that were killed there may have left half a file.
    """
    sweep_leftovers(folder, deep=True)
    write_json_atomic(folder / "report.json", report_dict(report))
    write_yaml(folder / "job.yaml", dict(recipe))


def _relative(files: Any, folder: Path) -> Any:
    if isinstance(files, dict):
        return {name: _relative(part, folder) for name, part in files.items()}
    if isinstance(files, (list, tuple)):
        return [_relative(part, folder) for part in files]
    return files.relative_to(folder) if isinstance(files, Path) and files.is_relative_to(folder) else files
