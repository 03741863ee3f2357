"""What pictures show, from a text beside each, or from a table that may give any other option as well."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smoothtool.errors import closest
from smoothtool.files.lists.inputs import Picture
from smoothtool.weights.sample_pictures import SAMPLES

SIDECARS = "sidecars"
SIDECAR_SUFFIXES = (".txt", ".caption")
TABLE_SUFFIXES = (".csv", ".jsonl")
MAX_TABLE_BYTES = 50_000_000

Located = dict[str, tuple[Any, str]]
"""Per option its value, and where it was written."""


@dataclass(frozen=True)
class Row:
    """One line of a table: the options it gives to one picture, and where it stands."""

    file_name: str
    options: dict[str, Any]
    place: str


@dataclass
class Captions:
    """A source of captions: `sidecars`, or the path of a table; `place` is where the recipe names it."""

    source: str
    place: str
    rows: dict[str, list[Row]] = field(default_factory=dict)
    metadata: dict[Path, dict[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises: ValueError when there is no such table, or nothing that can be used in it."""
        for row in [] if self.source == SIDECARS else read_table(Path(self.source).expanduser()):
            self.rows.setdefault(row.file_name, []).append(row)

    def listed(self) -> list[str]:
        """The pictures that a table names, beside which it lies."""
        folder = Path(self.source).parent
        return [name if name.startswith("samples:") else str(folder / name) for name in self.rows]

    def about(self, picture: Picture) -> list[Located]:
        """The options given to a picture: of a table once per row; where nothing is said, nothing is given, once."""
        if self.source == SIDECARS:
            text = self.sidecar(picture)
            return [{"src": (text, self.place)} if text else {}]
        names = [picture.text, str(picture.place), picture.place.name, _beside(Path(self.source), picture)]
        rows = next((self.rows[name] for name in names if name in self.rows), [])
        return [{key: (value, f"{row.place} {key}") for key, value in row.options.items()} for row in rows] or [{}]

    def sidecar(self, picture: Picture) -> str | None:
        """The text beside a picture (fox.txt or fox.caption), or its line in metadata.csv or .jsonl of its folder.

        Raises: ValueError when that metadata cannot be read.
        """
        is_sample = picture.text.startswith("samples:")
        path = SAMPLES / picture.place if is_sample else Path(picture.text).expanduser()
        for suffix in SIDECAR_SUFFIXES:
            sidecar = path.with_suffix(suffix)
            if sidecar.is_file():
                return " ".join(sidecar.read_text("utf-8-sig", errors="replace").split()) or None
        if path.parent not in self.metadata:
            self.metadata[path.parent] = _metadata(path.parent)
        return self.metadata[path.parent].get(path.name)


def _beside(table: Path, picture: Picture) -> str:
    """The picture as seen from the table's folder."""
    path = Path(picture.text)
    return path.relative_to(table.parent).as_posix() if path.is_relative_to(table.parent) else ""


def _metadata(folder: Path) -> dict[str, str]:
    """File name -> caption; empty where there is no such table."""
    table = next((path for suffix in TABLE_SUFFIXES if (path := folder / f"metadata{suffix}").is_file()), None)
    said = [(row.file_name, row.options.get("src")) for row in reversed(read_table(table))] if table else []
    return {name: str(text) for name, text in said if text}


def read_table(path: Path) -> list[Row]:
    """The rows of a .csv or .jsonl: `file_name`, a caption (`text`, `caption` or `src`), and any option by its key.

    Raises: ValueError.
    """
    is_csv, is_json = (path.suffix.lower() == suffix for suffix in TABLE_SUFFIXES)
    if not is_csv and not is_json:
        raise ValueError(f"is {path}, neither sidecars nor a table (.csv or .jsonl)")
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_TABLE_BYTES + 1)
        text = raw.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"is {path}, which cannot be read as UTF-8 text") from error
    if len(raw) > MAX_TABLE_BYTES:
        raise ValueError(f"is {path}, which is over {MAX_TABLE_BYTES // 1_000_000} MB")
    rows = list(_csv_rows(text, path) if is_csv else _json_rows(text, path))
    if not rows:
        raise ValueError(f"is {path}, which has no rows")
    return [_row(options, f"{path}:{line}") for line, options in rows]


def _csv_rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for cells in reader:
            yield reader.line_num, {str(key): value for key, value in cells.items() if value}
    except csv.Error as error:
        raise ValueError(f"{path}:{reader.line_num}: {error}") from error


def _json_rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, row in enumerate(text.split("\n"), start=1):  # str.splitlines would cut captions at U+2028
        if row.strip():
            try:
                found = json.loads(row)
            except (ValueError, RecursionError):
                found = None
            if not isinstance(found, dict):
                raise ValueError(f"{path}:{line}: is not a JSON object")
            yield line, found


def _row(options: dict[str, Any], place: str) -> Row:
    name = options.pop("file_name", None)
    if not isinstance(name, str) or not name:
        near = closest("file_name", options)
        raise ValueError(f"{place}: file_name is missing" + (f" (is it {near})" if near else ""))
    caption = options.pop("text", None) or options.pop("caption", None)
    named = {key.replace("-", "_"): value for key, value in options.items()}
    return Row(name, {**({"src": caption} if caption else {}), **named}, place)
