"""Captions in recipes: from the text beside each picture, or from a table that may give any other option as well."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smoothtool.files.lists.captions import PictureCaptions, absolute
from smoothtool.files.lists.inputs import Picture
from smoothtool.files.lists.metadata import Row, read_table
from smoothtool.readers.regular import at_home
from smoothtool.weights.sample_pictures import SAMPLES, sample_name

SIDECARS = "sidecars"

Located = dict[str, tuple[Any, str]]
"""Per option its value, and where it was written."""


@dataclass
class Captions:
    """A source of captions: `sidecars`, or the path of a table; `place` is where the recipe names it."""

    source: str
    place: str
    rows: dict[str, list[Row]] = field(default_factory=dict)
    beside: PictureCaptions = field(default_factory=PictureCaptions)

    def __post_init__(self) -> None:
        """Raises: InputError when there is no such table, or something in it cannot be used."""
        for row in [] if self.source == SIDECARS else read_table(at_home(self.source)):
            self.rows.setdefault(row.file_name, []).append(row)

    def listed(self) -> list[str]:
        """The pictures that a table names, beside which it lies."""
        folder = Path(self.source).parent
        return [str(folder / name) if sample_name(name) is None else name for name in self.rows]

    def about(self, picture: Picture) -> list[Located]:
        """The options for a picture: one set per row of the table that names it, or one empty set when none does.

        Raises: InputError when the text beside it, or the table of its folder, cannot be read.
        """
        if self.source == SIDECARS:
            text = self.sidecar(picture)
            return [{"src": (text, self.place)} if text else {}]
        names = [picture.text, str(picture.place), picture.place.name, _beside(Path(self.source), picture)]
        rows = next((self.rows[name] for name in names if name in self.rows), [])
        return [{key: (value, f"{row.place} {key}") for key, value in _options(row).items()} for row in rows] or [{}]

    def sidecar(self, picture: Picture) -> str | None:
        """The first caption of a picture, from the text beside it or from a table of the folders of the inputs."""
        path = at_home(picture.text) if sample_name(picture.text) is None else SAMPLES / picture.place
        above = absolute(path).parents
        root = above[min(len(picture.place.parts), len(above)) - 1]
        return next(iter(self.beside.of(path, root)), None)


def _options(row: Row) -> dict[str, Any]:
    """The options in a row: `text` or `caption` is what the picture shows, every other column an option by its key."""
    cells = {key.replace("-", "_"): value for key, value in row.cells.items()}
    named = [cells.pop(key, None) for key in ("text", "caption")]
    caption = next(filter(None, named), None)
    caption = caption[0] if isinstance(caption, list) else caption
    return {**({"src": caption} if caption else {}), **cells}


def _beside(table: Path, picture: Picture) -> str:
    """The picture as seen from the table's folder."""
    path = Path(picture.text)
    return path.relative_to(table.parent).as_posix() if path.is_relative_to(table.parent) else ""
