"""The cache of identity LoRAs: the largest cost of a drag, and the same for every drag in a picture."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from smoothtool.errors import storage_error
from smoothtool.files.storage.cache import cache_folder
from smoothtool.files.storage.leftovers import sweep_leftovers
from smoothtool.files.storage.tensors import ENTRY, Tensors, is_intact, write_tensors
from smoothtool.readers.regular import is_regular

KEPT = 64
"""Files of 6 MB each for SD 1.5."""


class IdentityCache:
    """LoRA files by `cache_key`, sealed; the 64 that were used last are kept."""

    def __init__(self) -> None:
        self.folder = cache_folder("identity")

    def get(self, key: str) -> Path | None:
        """The file, now the most recently used; a damaged one is deleted and counts as none."""
        path = self._path(key)
        if not is_regular(path):
            return None
        if not is_intact(path, key):
            with suppress(OSError):
                path.unlink(missing_ok=True)
            return None
        with suppress(OSError):
            os.utime(path)
        return path

    def put(self, key: str, tensors: Tensors, metadata: dict[str, str]) -> Path:
        """Raises: StorageError."""
        path = self._path(key)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(path, error) from error
        sweep_leftovers(self.folder)
        write_tensors(path, tensors, {**metadata, ENTRY: key}, seal=True)
        self._drop_oldest()
        return path

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _drop_oldest(self) -> None:
        """Other processes may drop the same files."""
        dated = []
        for path in self.folder.glob("[!.]*.safetensors"):
            with suppress(OSError):
                dated.append((path.stat().st_mtime, path))
        for _, path in sorted(dated)[:-KEPT]:
            with suppress(OSError):
                path.unlink(missing_ok=True)
