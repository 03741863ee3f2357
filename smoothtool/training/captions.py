"""Captioned pictures from a folder as in Hugging Face's ImageFolder, or with a text file beside each picture."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from smoothtool.errors import InputError
from smoothtool.files.lists.captioned import CaptionedPicture
from smoothtool.files.lists.captions import PictureCaptions, absolute, is_sidecar
from smoothtool.files.lists.metadata import NAMES
from smoothtool.files.pictures.formats import is_picture, is_unreadable_picture
from smoothtool.files.pictures.images import load_image
from smoothtool.files.storage.folders import Below

HINT = "a folder with metadata.jsonl (file_name, text), or with a .txt beside each picture"


def read_captioned_folder(folder: Path) -> tuple[list[CaptionedPicture], list[str]]:
    """The pictures with their captions in a stable order, and a line for each one that cannot be used.

    Raises: InputError when there is no folder, a table in it cannot be read, or nothing in it can be used.
    """
    if not os.path.isdir(folder):
        raise InputError(f"{folder}: there is no such folder", HINT)
    reading = _Reading(folder)
    found = list(reading.pictures())
    if not found:
        reason = f" ({reading.complaints[0]})" if reading.complaints else ""
        raise InputError(f"{folder}: there are no captioned pictures in it{reason}", HINT)
    return found, reading.complaints


@dataclass
class _Reading:
    """One pass over a folder: what is there, and what is wrong with it."""

    folder: Path
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        below = Below(self.folder)
        self.files = sorted(Path(name) for name in below)
        self.complaints += below.problems
        self.captions = PictureCaptions(self.complaints)
        tables = [path for path in self.files if path.name in NAMES]
        folders = dict.fromkeys(path.parent for path in tables)
        self.listed = [Path(name) for folder in folders for name in self.captions.table(absolute(folder))]
        self.complaints += [
            f"{self._name(path)}: is not read beside {NAMES[0]}"
            for path in tables
            if path.name != NAMES[0] and path.with_name(NAMES[0]) in tables
        ]

    def pictures(self) -> Iterator[CaptionedPicture]:
        self._complain_of_texts()
        for path in sorted({*filter(is_picture, map(self._inside, self.files)), *self._named()}):
            found = self._picture(path)
            if found:
                yield found
        self.complaints += [
            f"{self._name(path)}: pictures of this format are not read"
            for path in self.files
            if is_unreadable_picture(path)
        ]

    def _picture(self, path: Path) -> CaptionedPicture | None:
        name = self._name(path)
        try:
            captions, stat = self.captions.of(path, self.folder), os.stat(path)
        except InputError as error:
            self.complaints.append(f"{name}: {error.what}")
        except OSError:
            self.complaints.append(f"{name}: this link leads nowhere")
        else:
            if captions:
                version = f"{stat.st_size}-{stat.st_mtime_ns}"
                return CaptionedPicture(name, captions, partial(load_image, path), version)
            self.complaints.append(f"{name}: there is no caption for this picture")
        return None

    def _named(self) -> Iterator[Path]:
        """Files that tables name, whatever their suffix."""
        root = absolute(self.folder)
        for path in self.listed:
            name = os.path.relpath(path, root)
            if not path.is_relative_to(root):
                self.complaints.append(f"{name}: lies outside the data folder")
            elif not os.path.isfile(path):
                self.complaints.append(f"{name[:80]}: there is a caption, and no such picture")
            elif not is_unreadable_picture(path):
                yield self._inside(path)

    def _complain_of_texts(self) -> None:
        """Name texts without a picture, where texts are what captions are in."""
        pictures = filter(is_picture, self.files)
        used = {text for picture in pictures for text in self.captions.sidecars(picture)}
        for path in [] if self.listed else self.files:
            if is_sidecar(path.name) and path not in used:
                self.complaints.append(f"{self._name(path)}: there is a caption, and no picture of that name")

    def _inside(self, path: Path) -> Path:
        """The path as it is written below the data folder."""
        return self.folder / os.path.relpath(path, self.folder)

    def _name(self, path: Path) -> str:
        return os.path.relpath(path, self.folder)
