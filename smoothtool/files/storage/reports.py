"""What a command did, as `report.json`, and how to do it again, as `job.yaml`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from smoothtool.files.storage.leftovers import sweep_leftovers
from smoothtool.files.storage.writing import plain, write_json_atomic, write_yaml
from smoothtool.readers.regular import at_home
from smoothtool.types import Report
from smoothtool.version import __version__
from smoothtool.weights.loras import KNOWN_LORAS
from smoothtool.weights.models import KNOWN

PACKAGES = ("torch", "diffusers", "transformers", "peft")
PLACES = {"image", "images", "mask", "points", "bench", "output", "prompts", "folder", "folders"}
"""Job keys that always hold paths."""
NAMES_OR_PLACES: dict[str, set[str]] = {
    "model": {"auto", *KNOWN},
    "lora": {"none", *KNOWN_LORAS},
    "compare_lora": {"default", *KNOWN_LORAS},
    "smooth": {"default", *KNOWN_LORAS},
    "clip": {"stickers"},
    "dino": set(),
    "data": {"stickers:train"},
    "train_data": {"stickers:train"},
}
"""Job keys that hold a path where there is such a file, possibly with `:SCALE` behind it, except for these names."""
NAMES_IN_TABLES = NAMES_OR_PLACES | {"data": {"stickers"}}
Put = Callable[[str, bool], str]
"""(text, whether it is a path for certain) -> what stands in its place."""
SHARED_PARTS = 2
"""Parts of a path that two files may share and still lie far apart: the root, and home or data below it."""


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


def write_report(report: Report, folder: Path) -> None:
    """Write `report.json` and `job.yaml` into `folder` (while it is being filled, not yet `report.folder`).

    A folder that commands go on with is swept: runs that were killed there may have left half a file.
    """
    sweep_leftovers(folder, deep=True)
    write_json_atomic(folder / "report.json", report_dict(report))
    write_yaml(folder / "job.yaml", job_document(report.command, report.job))


def job_document(command: str, job: dict[str, Any]) -> dict[str, Any]:
    """The one-job recipe that `smoothtool run` repeats from anywhere: paths made absolute, what is None left out."""
    return _document(command, job, _absolute)


def picture_document(command: str, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same recipe for inside a picture of a result in `folder`. Pictures travel: they say nothing of the machine.

    A path is told from the result's folder; a file that lies in another part of the disk only has its name there.
    """
    return _document(command, job, partial(_portable, folder=_absolute(str(folder))))


def with_paths(command: str, settings: Mapping[str, Any], put: Put) -> dict[str, Any]:
    """Settings with `put` applied to every text in them that is or may be a path, but for names and `samples:`."""
    names = NAMES_IN_TABLES if command == "tables" else NAMES_OR_PLACES
    return {key: _with_paths(key, value, names, put) for key, value in settings.items()}


def _document(command: str, job: dict[str, Any], put: Put) -> dict[str, Any]:
    given = {key: value for key, value in job.items() if key != "command" and value is not None}
    return {"jobs": [{"command": command, **plain(with_paths(command, given, put))}]}


def _with_paths(key: str, value: Any, names: Mapping[str, set[str]], put: Put) -> Any:
    if isinstance(value, (list, tuple)):
        return [_with_paths(key, part, names, put) for part in value]
    if isinstance(value, Path):
        return put(str(value), True)
    if isinstance(value, str) and key in PLACES:
        return value if _has_scheme(value) else put(value, True)
    if isinstance(value, str) and key in names and value not in names[key]:
        path, colon, scale = _split_scale(value)
        return value if path in names[key] else f"{put(path, False)}{colon}{scale}"
    return value


def _absolute(path: str, sure: bool = True) -> str:
    return os.path.abspath(at_home(path)) if sure or os.path.exists(at_home(path)) else path


def _portable(path: str, sure: bool, folder: str) -> str:
    """From the folder, where both lie in one part of the disk, which is more than its root and a folder in it."""
    place = _absolute(path, sure)
    if not os.path.isabs(place):
        return path
    try:
        shared = os.path.commonpath([folder, place])
    except ValueError:  # two drives
        shared = ""
    if len(Path(shared).parts) <= SHARED_PARTS:
        return os.path.basename(place)
    return Path(os.path.relpath(place, folder)).as_posix()


def _has_scheme(text: str) -> bool:
    """`samples:fox` or `https://…`, but no Windows drive and no file that happens to have a colon in its name."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", text) is not None and not os.path.exists(text)


def _split_scale(text: str) -> tuple[str, str, str]:
    head, colon, tail = text.rpartition(":")
    return (head, colon, tail) if re.fullmatch(r"-?[0-9.]+", tail) and colon else (text, "", "")


def _relative(files: Any, folder: Path) -> Any:
    if isinstance(files, dict):
        return {name: _relative(part, folder) for name, part in files.items()}
    if isinstance(files, (list, tuple)):
        return [_relative(part, folder) for part in files]
    return files.relative_to(folder) if isinstance(files, Path) and files.is_relative_to(folder) else files
