"""The cache of identity LoRAs: the largest cost of a drag, and the same for every drag in a picture."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from smoothtool.files.storage.cache import InversionCache

KEPT = 64
"""Files of 6 MB each for SD 1.5."""


def identity_path(key: str) -> Path:
    """Where the LoRA of that `cache_key` is or belongs, in a folder that exists; used files count as new again."""
    folder = InversionCache().folder.parent / "identity"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{key}.safetensors"
    with suppress(OSError):
        os.utime(path)
    _drop_oldest(folder)
    return path


def _drop_oldest(folder: Path) -> None:
    """Other processes may drop the same files."""
    dated = []
    for path in folder.glob("[!.]*.safetensors"):
        with suppress(OSError):
            dated.append((path.stat().st_mtime, path))
    for _, path in sorted(dated)[:-KEPT]:
        path.unlink(missing_ok=True)
