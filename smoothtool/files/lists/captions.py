"""What a picture shows, from the text beside it or from the table of its folder: one reading for editing and training.

Decided once, here:
- the text beside a picture wins over a row in a table, and a table in its own folder over one further up
- beside fox.png lie fox.png.txt, fox.txt, fox.png.caption or fox.caption, asked in this order, with suffixes in any
  case (fox.TXT); an empty one says nothing
- each line of such a text is a caption of its own: training draws one every time, editing takes the first
- lines end with LF, CRLF or CR; whatever else parts lines (U+2028, form feeds) is a space
- text is read by its byte order mark, else as UTF-8; what is neither is named
- of metadata.jsonl and metadata.csv in one folder the first is read; rows about one picture add up
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from smoothtool.files.lists.metadata import CAPTION_COLUMNS, NAMES, check_captions, read_table
from smoothtool.readers.text import decode_text, read_text

SIDECAR_SUFFIXES = (".txt", ".caption")
LARGEST_SIDECAR_BYTES = 1_000_000


@dataclass
class PictureCaptions:
    """The captions of pictures, with every folder and table read once.

    complaints  takes a line for each row of a table that cannot be used; without it, such a row is an error
    """

    complaints: list[str] | None = None
    tables: dict[Path, dict[str, tuple[str, ...]]] = field(default_factory=dict)
    names: dict[Path, dict[str, list[str]]] = field(default_factory=dict)

    def of(self, picture: Path, root: Path | None = None) -> tuple[str, ...]:
        """The captions of a picture; () when it has none.

        root  the uppermost folder whose table may speak of it; its own by default
        Raises: InputError for a text or table that cannot be read.
        """
        for sidecar in self.sidecars(picture):
            lines = sidecar_captions(read_text(sidecar, limit_bytes=LARGEST_SIDECAR_BYTES), str(sidecar))
            if lines:
                return lines
        place = absolute(picture)
        for folder in _upwards(place.parent, absolute(root) if root else place.parent):
            if captions := self.table(folder).get(str(place)):
                return captions
        return ()

    def sidecars(self, picture: Path) -> Iterator[Path]:
        """The texts beside a picture, in the order in which they are asked."""
        there = self._names_in(picture.parent)
        for suffix in SIDECAR_SUFFIXES:
            for name in (picture.name + suffix, picture.stem + suffix):
                for found in there.get(_folded(name), ()):
                    yield picture.parent / found

    def table(self, folder: Path) -> dict[str, tuple[str, ...]]:
        """Captions by absolute path, from the table of a folder; empty where there is none."""
        if folder not in self.tables:
            self.tables[folder] = {}
            table = next((path for name in NAMES if os.path.lexists(path := folder / name)), None)
            for row in read_table(table, self.complaints) if table else ():
                name = str(absolute(folder / _slashed(folder, row.file_name)))
                known = self.tables[folder].get(name, ())
                self.tables[folder][name] = tuple(dict.fromkeys((*known, *row.captions)))
                if not row.captions and self.complaints is not None:
                    self.complaints.append(f"{os.path.basename(row.place)}: needs one of {', '.join(CAPTION_COLUMNS)}")
        return self.tables[folder]

    def _names_in(self, folder: Path) -> dict[str, list[str]]:
        """The names in a folder by how they read with their suffix in small letters, which come first themselves."""
        if folder not in self.names:
            self.names[folder] = {}
            try:
                there = sorted(os.listdir(folder), key=lambda name: (_folded(name) != name, name))
            except (OSError, ValueError):  # the picture itself will be missed
                there = []
            for name in there:
                self.names[folder].setdefault(_folded(name), []).append(name)
        return self.names[folder]


def is_sidecar(name: str) -> bool:
    """Whether a file of that name could stand beside a picture."""
    return name.lower().endswith(SIDECAR_SUFFIXES)


def sidecar_captions(text: str | bytes, place: str) -> tuple[str, ...]:
    """The captions in a text beside a picture, one a line.

    Raises: InputError, naming `place`, when it is no text or a line is too long to be a caption.
    """
    lines = split_lines(decode_text(text, place) if isinstance(text, bytes) else text)
    return check_captions(tuple(dict.fromkeys(lines)), place)


def split_lines(text: str) -> list[str]:
    """The lines of a text that hold anything, with single spaces: ends are LF, CRLF and CR alone."""
    return [line for line in (" ".join(part.split()) for part in re.split("\r\n|\n|\r", text)) if line]


def absolute(path: Path) -> Path:
    """Without `..`, and without following links, which lead out of a folder on purpose."""
    return Path(os.path.abspath(path))


def _folded(name: str) -> str:
    stem, suffix = os.path.splitext(name)
    return stem + suffix.lower()


def _slashed(folder: Path, name: str) -> str:
    """A name as written on Windows, where there is no file that is really called so."""
    return name if "\\" not in name or os.path.lexists(folder / name) else name.replace("\\", "/")


def _upwards(folder: Path, root: Path) -> Iterator[Path]:
    """The folder, and those above it up to the root."""
    yield folder
    if folder != root and folder.is_relative_to(root):
        yield from (above for above in folder.parents if above.is_relative_to(root))
