"""One JSON record a line, appended as work is done: what a killed run has finished is kept, the next run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from smoothtool.errors import SmoothtoolError
from smoothtool.files.storage.writing import append_line, plain
from smoothtool.readers.fields import Fields, as_fields, is_number, is_text, is_whole, parse_json
from smoothtool.readers.regular import read_regular

LARGEST_BYTES = 1_000_000_000


def read_records(folder: Path, pattern: str, needs: Mapping[str, type]) -> list[dict[str, Any]]:
    """The records of all files in `folder` that match, in the order of their names.

    needs  str, int, float or dict by key: a line that is cut short, or lacks one of these, is left out
    Raises: InputError when one of the files is no regular file.
    """
    contents = [read_regular(path, limit_bytes=LARGEST_BYTES) for path in sorted(folder.glob(pattern))]
    lines = [line for content in contents for line in content.split(b"\n")]
    return [dict(record.values) for line in lines if (record := read_record(line, needs)) is not None]


def read_record(line: bytes, needs: Mapping[str, type]) -> Fields | None:
    """One line's record, or None where it is no record of that form."""
    try:
        record = as_fields(parse_json(line, "record"), "record")
    except SmoothtoolError:
        return None
    right = all(_KINDS[kind](record.values.get(key)) for key, kind in needs.items())
    return record if right else None


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Add one line. Raises: StorageError."""
    append_line(path, json.dumps(plain(record), ensure_ascii=True, allow_nan=False))


_KINDS: dict[type, Callable[[Any], bool]] = {
    str: is_text,
    int: is_whole,
    float: is_number,
    dict: lambda value: isinstance(value, dict),
}
