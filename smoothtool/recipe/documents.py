"""The recipe that repeats a job: for `job.yaml`, and for inside a picture."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from smoothtool.files.storage.writing import plain
from smoothtool.jobs import JOBS, fields_of
from smoothtool.jobs.options import PATH, PATH_OR_LORA, PATH_OR_MODEL, flag_of, key_of, path_of
from smoothtool.readers.regular import at_home
from smoothtool.weights.loras import KNOWN_LORAS
from smoothtool.weights.models import KNOWN

SHARED_PARTS = 2
"""Parts of a path that two files may share and still lie far apart: the root, and home or data below it."""
NAMES = {PATH_OR_MODEL: frozenset(KNOWN), PATH_OR_LORA: frozenset(KNOWN_LORAS)}
"""By kind of option, the names that are known to smoothtool."""
Put = Callable[[str, bool], str]
"""(text, whether it is a path for certain) -> what stands in its place."""


def job_document(command: str, job: dict[str, Any]) -> dict[str, Any]:
    """The one-job recipe that `smoothtool run` repeats from anywhere: paths made absolute, what is None left out."""
    return _document(command, job, _absolute)


def picture_document(command: str, job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same recipe for inside a picture of a result in `folder`. Pictures travel: they say nothing of the machine.

    A path is relative to the result's folder; a file that lies in another part of the disk only has its name there.
    """
    return _document(command, job, partial(_portable, folder=_absolute(str(folder))))


def with_paths(command: str, settings: Mapping[str, Any], put: Put) -> dict[str, Any]:
    """Settings with `put` applied to every text in them that is or may be a path, but for names and `samples:`."""
    kinds = path_options(command)
    return {key: _with_paths(value, *kinds[key], put) if key in kinds else value for key, value in settings.items()}


def path_options(command: str) -> dict[str, tuple[bool, frozenset[str]]]:
    """By key, the options of a command that hold paths: whether they always do, and which words are names there."""
    if command not in JOBS:
        return {}
    return {
        key_of(name, field): (
            path_of(field) == PATH,
            frozenset(flag_of(field).names) | NAMES.get(path_of(field), frozenset()),
        )
        for name, field in fields_of(JOBS[command])
        if path_of(field)
    }


def _document(command: str, job: dict[str, Any], put: Put) -> dict[str, Any]:
    given = {key: value for key, value in job.items() if key != "command" and value is not None}
    return {"jobs": [{"command": command, **plain(with_paths(command, given, put))}]}


def _with_paths(value: Any, always: bool, names: frozenset[str], put: Put) -> Any:
    if isinstance(value, (list, tuple)):
        return [_with_paths(part, always, names, put) for part in value]
    if isinstance(value, Path):
        return put(str(value), True)
    if not isinstance(value, str) or value in names:
        return value
    if always:
        return value if _has_scheme(value) else put(value, True)
    path, colon, scale = _split_scale(value)
    return value if path in names else f"{put(path, False)}{colon}{scale}"


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
