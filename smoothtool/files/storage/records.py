"""One JSON record a line, appended as work is done: what a killed run has finished is kept, the next run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from smoothtool.files.storage.writing import append_line, plain


def read_records(folder: Path, pattern: str) -> list[dict[str, Any]]:
    """The records of all files in `folder` that match, in the order of their names; a line cut short is left out."""
    lines = [line for path in sorted(folder.glob(pattern)) for line in path.read_bytes().split(b"\n")]
    return [record for line in lines if (record := _parsed(line)) is not None]


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Add one line. Raises: StorageError."""
    append_line(path, json.dumps(plain(record), ensure_ascii=True, allow_nan=False))


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
