"""What lies in all caches, for `smoothtool cache list` and `clear`: inversions, identity LoRAs, training data."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from smoothtool.files.storage.cache import cache_folder
from smoothtool.files.storage.leftovers import sweep_leftovers

KINDS = {
    "inversions": "of pictures, by invert, edit, interpolate and drag",
    "identity": "LoRAs that know one picture, by drag",
    "training": "latents and captions in the model's terms, by train; the icons of stickers",
}
"""Folders of the cache, and what is in them."""


@dataclass(frozen=True)
class Cached:
    """One entry: a file with what belongs to it, or a folder; `used_at` in seconds since 1970."""

    kind: str
    name: str
    paths: tuple[Path, ...]
    size_bytes: int
    used_at: float


def cached(kind: str) -> list[Cached]:
    """Every entry of a kind, the most recently used first."""
    found = []
    for path in _entries(cache_folder(kind)):
        with suppress(OSError):  # another process may drop it meanwhile
            paths = (path, path.with_suffix(".json")) if path.is_file() else (path,)
            stats = [part.stat() for start in paths for part in (start, *start.rglob("*")) if part.is_file()]
            size, used = sum(stat.st_size for stat in stats), max((stat.st_mtime for stat in stats), default=0.0)
            found.append(Cached(kind, path.stem, paths, size, used))
    return sorted(found, key=lambda entry: entry.used_at, reverse=True)


def clear(kind: str) -> int:
    """Delete every entry of a kind, and what killed processes left half-written; returns how many entries there were.

    What another process is reading stays in its hands until it is done.
    """
    entries = cached(kind)
    for path in (path for entry in entries for path in entry.paths):
        with suppress(OSError):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    sweep_leftovers(cache_folder(kind), deep=True, before=time.time())
    return len(entries)


def _entries(folder: Path) -> Iterator[Path]:
    """Tensors by file, and folders of them; the rest (notes beside them, a lock) is no entry."""
    return (path for path in folder.glob("[!.]*") if path.suffix == ".safetensors" or path.is_dir())
