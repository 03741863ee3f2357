"""The SHA-256 of files that have a name: noted when one is first used, compared ever after."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path

from smoothtool.errors import ModelError, StorageError
from smoothtool.files.storage.writing import write_json_atomic
from smoothtool.readers.fields import read_fields
from smoothtool.readers.regular import is_regular, open_regular
from smoothtool.weights import settings

NOTES = "checksums.json"


def notes_file() -> Path:
    """Beside the user's settings."""
    return settings.settings_file().with_name(NOTES)


def sha256_of(path: Path) -> str:
    """Raises: ModelError when the file cannot be read."""
    with open_regular(path, fault=ModelError) as file:
        digest = hashlib.sha256()
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def check_noted(name: str, path: Path) -> str:
    """The checksum of a named file, which is noted when there is no note of it yet.

    Raises: ModelError when it is another file than the one that was noted.
    """
    found, known = sha256_of(path), noted()
    if name not in known:
        with suppress(StorageError):  # a home that cannot be written to is no reason to stop
            notes_file().parent.mkdir(parents=True, exist_ok=True)
            write_json_atomic(notes_file(), known | {name: found})
    elif known[name] != found:
        raise ModelError(
            f"{name}: {path} is another file than when it was first used "
            f"(SHA-256 {found[:12]}…, noted was {known[name][:12]}…)",
            f"if that is right, take {name} out of {notes_file()}",
        )
    return found


def noted() -> dict[str, str]:
    """Checksums by name. Raises: ModelError when the notes cannot be read."""
    path = notes_file()
    if not is_regular(path):
        return {}
    fields = read_fields(path, limit_bytes=1_000_000, fault=ModelError, hint="delete it")
    return {name: fields.text(name) for name in fields.values}
