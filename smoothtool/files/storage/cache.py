"""The cache of inversions: named by what went into them, so that it can never answer for other pictures or weights."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from platformdirs import user_cache_dir

from smoothtool.errors import ModelError, StorageError, UsageError
from smoothtool.files.storage.inversions import load_inversion, save_inversion, sidecar
from smoothtool.files.storage.leftovers import sweep_leftovers
from smoothtool.files.storage.tensors import ENTRY
from smoothtool.files.storage.writing import plain
from smoothtool.readers.regular import at_home, is_regular

if TYPE_CHECKING:
    import torch

    from smoothtool.types import Inversion

DEFAULT_MB = 2048
LOCK_TIMEOUT_S = 10.0


def cache_folder(kind: str) -> Path:
    """Where a kind of cached results lies: below $SMOOTHTOOL_CACHE, or the user's cache folder of this system.

    Raises: UsageError when that is in a home that nobody has, which would make a folder of the name `~`.
    """
    folder = at_home(os.environ.get("SMOOTHTOOL_CACHE") or user_cache_dir("smoothtool"))
    if str(folder).startswith("~"):
        raise UsageError(f"{folder}: there is no such home for the cache", "SMOOTHTOOL_CACHE with another folder")
    return folder / kind


def cache_key(pixel_values: torch.Tensor, settings: dict[str, Any]) -> str:
    """SHA-256 over shape and bytes of the pictures [B, 3, H, W] and over everything else the result depends on.

    settings  prompts, model and LoRA fingerprints, schedule, steps, guidance, method and its options, dtype, version
    """
    values = pixel_values.detach().float().cpu().contiguous()
    digest = hashlib.sha256(str(tuple(values.shape)).encode())
    digest.update(values.numpy().tobytes())
    digest.update(json.dumps(plain(settings), sort_keys=True).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class CacheEntry:
    """One stored inversion; `used_at` in seconds since 1970."""

    key: str
    path: Path
    size_bytes: int
    used_at: float


class InversionCache:
    """A folder of inversion files, kept under a size by dropping what was not used for longest.

    max_bytes  by default $SMOOTHTOOL_CACHE_MB, or 2048 MB; 0 keeps nothing
    Raises: UsageError when $SMOOTHTOOL_CACHE_MB is not a number of megabytes.
    """

    def __init__(self, folder: Path | None = None, max_bytes: int | None = None) -> None:
        self.folder = folder or cache_folder("inversions")
        self.max_bytes = _megabytes_from_environment() * 1_000_000 if max_bytes is None else max_bytes

    def get(self, key: str) -> tuple[Inversion, dict[str, Any]] | None:
        """What was put under that key, now the most recently used; an entry that is damaged, or was made for another
        key, is deleted and counts as none.
        """
        path = self._path(key)
        if not is_regular(path):
            return None
        try:
            inversion, info = load_inversion(path)
        except ModelError:
            info = {}
        if info.pop(ENTRY, None) != key:
            _delete(path)
            return None
        with suppress(OSError):
            os.utime(path)
        return inversion, info

    def put(self, key: str, inversion: Inversion, info: dict[str, Any]) -> str:
        """Store it; returns nothing, or why a full or read-only disk, or a lock held for long, cost the entry."""
        if self.max_bytes <= 0:
            return ""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with self._lock():
                sweep_leftovers(self.folder)
                save_inversion(self._path(key), inversion, {**info, ENTRY: key})
                self._evict()
        except (OSError, StorageError) as error:
            return f"the inversion is not kept in the cache: {getattr(error, 'what', error)}"
        return ""

    def entries(self) -> list[CacheEntry]:
        """Every entry, the most recently used first."""
        found = []
        for path in self.folder.glob("[!.]*.safetensors"):
            with suppress(OSError):  # another process may drop it meanwhile
                stat = path.stat()
                found.append(CacheEntry(path.stem, path, stat.st_size, stat.st_mtime))
        return sorted(found, key=lambda entry: entry.used_at, reverse=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _lock(self) -> FileLock:
        """Held while writing, so that two processes neither write one entry twice at a time nor evict each other's."""
        return FileLock(self.folder / "cache.lock", timeout=LOCK_TIMEOUT_S)

    def _evict(self) -> None:
        entries = self.entries()
        total = sum(entry.size_bytes for entry in entries)
        while entries and total > self.max_bytes:
            oldest = entries.pop()
            total -= oldest.size_bytes
            _delete(oldest.path)


def _megabytes_from_environment() -> int:
    text = os.environ.get("SMOOTHTOOL_CACHE_MB") or str(DEFAULT_MB)
    if not text.isdecimal():
        raise UsageError(f"SMOOTHTOOL_CACHE_MB={text}: this is not a number of megabytes", f"{DEFAULT_MB}")
    return int(text)


def _delete(path: Path) -> None:
    for part in (path, sidecar(path)):
        with suppress(OSError):
            part.unlink(missing_ok=True)
