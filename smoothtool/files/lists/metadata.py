"""Tables about pictures, as Hugging Face's ImageFolder has them: metadata.jsonl or metadata.csv, one row a picture."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smoothtool.errors import InputError, closest
from smoothtool.readers.fields import parse_json, shown
from smoothtool.readers.text import read_text

NAMES = ("metadata.jsonl", "metadata.csv")
"""What the table of a folder is called; the first one that is there is read."""
TABLE_SUFFIXES = (".csv", ".jsonl")
CAPTION_COLUMNS = ("text", "caption", "prompt", "src")
"""Where captions are looked for, the first first."""
MAX_TABLE_BYTES = 50_000_000
LONGEST_CAPTION = 10_000
"""Letters: a text encoder reads some 300 of them, and takes minutes over millions."""
HINT = "rows with file_name and text"


@dataclass(frozen=True)
class Row:
    """One line of a table: the picture it names, the other cells by their column, and where it stands."""

    file_name: str
    cells: dict[str, Any]
    place: str

    @property
    def captions(self) -> tuple[str, ...]:
        return captions_of(self.cells)


def read_table(path: Path, complaints: list[str] | None = None) -> list[Row]:
    """The rows of a .csv or .jsonl.

    complaints  takes a line for each row that cannot be used; without it, such a row is an error
    Raises: InputError when it is no table or cannot be read, and, with file and line, for a row with more cells than
    the table has columns: a text with commas that is not quoted would be cut.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise InputError(f"{path}: is neither sidecars nor a table (.csv or .jsonl)", HINT)
    text = read_text(path, limit_bytes=MAX_TABLE_BYTES)
    rows = []
    for line, cells in _csv_rows(text, path) if suffix == ".csv" else _json_rows(text):
        place = f"{path}:{line}"
        try:
            row = parse_json(cells, place, hint=HINT, once=True) if isinstance(cells, str) else cells
            rows.append(_row(row, place))
        except InputError as error:
            if complaints is None:
                raise
            complaints.append(f"{path.name}:{line}: {error.what.removeprefix(f'{path}:{line}: ')}")
    if not rows and not complaints:
        raise InputError(f"{path}: has no rows", HINT)
    return rows


def captions_of(cells: Any) -> tuple[str, ...]:
    """The captions in a row: a text or a list of texts under one of `CAPTION_COLUMNS`, each on one line."""
    found = next((cells[key] for key in CAPTION_COLUMNS if cells.get(key)), ()) if isinstance(cells, dict) else ()
    texts = found if isinstance(found, list) else [found]
    lines = (" ".join(text.split()) for text in map(_as_text, texts))
    return tuple(dict.fromkeys(line for line in lines if line))


def check_captions(captions: tuple[str, ...], place: str) -> tuple[str, ...]:
    """Raises: InputError for one that is too long to be a caption, or cannot be written."""
    for caption in captions:
        if len(caption) > LONGEST_CAPTION:
            raise InputError(f"{place}: a caption has {len(caption):,} letters", f"at most {LONGEST_CAPTION:,}")
        if any("\ud800" <= letter <= "\udfff" for letter in caption):
            raise InputError(f"{place}: a caption holds half a letter", "save it as UTF-8")
    return captions


def _as_text(value: Any) -> str:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return value if isinstance(value, str) else str(value) if is_number else ""


def _csv_rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Strictly: a quote that is never closed would swallow the rows after it."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    try:
        columns = [cell.strip() for cell in next(filter(any, reader), [])]
        _check_columns(columns, f"{path}:{reader.line_num}")
        for cells in reader:
            if len(cells) > len(columns) and any(cells[len(columns) :]):
                what = f"has {len(cells)} cells, and the table {len(columns)} columns"
                raise InputError(f"{path}:{reader.line_num}: {what}", 'quotes around text with commas: "a, b"')
            if any(cells):
                yield reader.line_num, {key: cell for key, cell in zip(columns, cells, strict=False) if cell}
    except csv.Error as error:
        hint = 'each quote inside a quoted text written twice: "a 5"" pot"' if "field" not in str(error) else HINT
        raise InputError(f"{path}:{reader.line_num}: cannot be read as CSV ({error})", hint) from error


def _check_columns(columns: list[str], place: str) -> None:
    """Raises: InputError for a name that stands twice, and for cells that are not parted by commas."""
    for name in columns:
        if name and columns.count(name) > 1:
            raise InputError(f"{place}: the column {name} is given twice", "keep one of each")
    parted = re.split("[;\t|]", columns[0]) if len(columns) == 1 else []
    if len(parted) > 1 and "file_name" in (name.strip() for name in parted):
        raise InputError(f"{place}: its cells are not parted by commas", "save it as CSV with commas, or as .jsonl")


def _json_rows(text: str) -> Iterator[tuple[int, str]]:
    lines = re.split("\r\n|\n|\r", text)  # a caption may hold other ends of line, as U+2028
    return ((line, row) for line, row in enumerate(lines, start=1) if row.strip())


def _row(cells: Any, place: str) -> Row:
    if not isinstance(cells, dict):
        raise InputError(f"{place}: is not a JSON object", HINT)
    name = cells.get("file_name")
    if name is not None and not isinstance(name, str):
        raise InputError(f"{place}: file_name is {shown(name)}, not a text", HINT)
    if not name or not name.strip():
        near = closest("file_name", cells.keys() - {"file_name"})
        raise InputError(f"{place}: file_name is missing" + (f" (is it {near})" if near else ""), HINT)
    others = {key: value for key, value in cells.items() if key != "file_name"}
    check_captions(captions_of(others), place)
    return Row(name, others, place)
