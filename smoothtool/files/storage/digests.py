"""Short names for contents: of files and folders, of settings."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smoothtool.errors import InputError
from smoothtool.files.storage.folders import Below
from smoothtool.files.storage.writing import plain
from smoothtool.readers.regular import read_regular
from smoothtool.weights.models import resolve_model

WHOLE_BYTES = 256_000_000
"""Larger files (weights) are told apart by size and time, smaller ones by every byte."""


@dataclass
class Digests:
    """SHA-256 of files and folders, each read once."""

    known: dict[Path, str] = field(default_factory=dict)
    models: dict[str, list[str]] = field(default_factory=dict)

    def of(self, path: Path) -> str:
        path = path.absolute()
        if path not in self.known:
            self.known[path] = _digest(path)
        return self.known[path]

    def of_model(self, name: str) -> list[str]:
        """Raises: ModelError when it is not there."""
        if name not in self.models:
            place = resolve_model(name)
            self.models[name] = [
                self.of(path) for path in (place.folder, place.single_file, place.default_lora) if path
            ]
        return self.models[name]


def _digest(path: Path) -> str:
    try:
        if path.is_dir():
            return hashlib.sha256("\n".join(sorted(_listing(path))).encode("utf-8", "replace")).hexdigest()
        if path.stat().st_size > WHOLE_BYTES:
            return _stamp(path)
        return hashlib.sha256(read_regular(path, limit_bytes=WHOLE_BYTES)).hexdigest()
    except OSError as error:
        return f"unreadable: {error.strerror}"
    except InputError as error:  # a pipe would be waited for, and a device has no end
        return f"unreadable: {error.what.removeprefix(f'{path}: ')}"


def _listing(folder: Path) -> Iterator[str]:
    return (f"{os.path.relpath(name, folder)} {_stamp(name)}" for name in Below(folder))


def _stamp(path: Path | str) -> str:
    try:
        found = os.stat(path)
    except OSError:  # a link that leads nowhere
        found = os.lstat(path)
    return f"{found.st_size} {found.st_mtime_ns}"


def digest(data: Any, digits: int = 8) -> str:
    """So many hexadecimal digits that name what a result depends on, as plain data."""
    return hashlib.sha256(json.dumps(plain(data), sort_keys=True).encode()).hexdigest()[:digits]
