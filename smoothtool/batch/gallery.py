"""index.html: the results of a batch on one page that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from smoothtool.errors import SmoothtoolError, StorageError
from smoothtool.files.drawing.pages import templates_in
from smoothtool.files.pictures.images import load_image
from smoothtool.files.storage.writing import write_picture, write_text_atomic
from smoothtool.types import Track

TEMPLATES = Path(__file__).parent / "templates"
THUMBNAIL_PX = 256
QUALITY = 80
THUMBNAILS = ".thumbnails"
"""Folder beside the page: pictures are decoded once, not again for every page that shows them."""


@dataclass(frozen=True)
class Card:
    """One item: pictures before and after, what was varied and everything that was set, measurements, and notes.

    link  the folder of the result, relative to the page; empty when there is none
    """

    name: str
    status: str
    link: str
    before: Path | None
    after: Path | None
    settings: dict[str, Any]
    every_setting: dict[str, Any]
    metrics: dict[str, float]
    notes: list[str]


def write_gallery(
    path: Path, title: str, counts: Mapping[str, int], cards: Sequence[Card], track: Track, *, thumbnails: bool = True
) -> None:
    """HTML with thumbnails inside; everything that people wrote is escaped, and nothing is loaded from elsewhere.

    Written card by card: a page of thousands is many times larger than what has to be in memory for it.
    thumbnails  make those that are missing
    """
    environment = templates_in(TEMPLATES)
    environment.filters["url"] = lambda text: quote(text.encode("utf-8", "replace"))
    kept = _Thumbnails(path.parent / THUMBNAILS)
    shown = dict.fromkeys(_pictures(cards)) if thumbnails else ()
    missing = [picture for picture in shown if not kept.have(picture)]
    for picture in track(missing, "thumbnails", len(missing)) if missing else ():
        kept.make(picture)
    metrics = sorted({name for card in cards for name in card.metrics})
    template = environment.get_template("gallery.html.j2")
    parts = template.generate(title=title, counts=counts, cards=cards, metrics=metrics, thumbnail=kept.data_uri)
    write_text_atomic(path, parts)


def _pictures(cards: Sequence[Card]) -> Iterator[Path]:
    return (picture for card in cards for picture in (card.before, card.after) if picture is not None)


@dataclass(frozen=True)
class _Thumbnails:
    """Small JPEGs named after where their pictures lie; each says inside of which state of the picture it was made."""

    folder: Path

    def have(self, picture: Path) -> bool:
        try:
            with Image.open(self._place(picture), formats=["JPEG"]) as kept:
                return bool(kept.info.get("comment") == _state(picture))
        except OSError:
            return False

    def make(self, picture: Path) -> None:
        """None of a picture that is missing or broken, nor an outdated one; and none where it cannot be written."""
        place = self._place(picture)
        try:
            state = _state(picture)
            small = load_image(picture, at_least_px=THUMBNAIL_PX)
        except (SmoothtoolError, OSError):
            with suppress(OSError):
                place.unlink()
            return
        small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
        with suppress(OSError, StorageError):
            self.folder.mkdir(exist_ok=True)
            write_picture(place, small, quality=QUALITY, comment=state)

    def data_uri(self, picture: Path | None) -> str:
        """Empty without a picture."""
        try:
            content = self._place(picture).read_bytes() if picture else b""
        except OSError:
            return ""
        return "data:image/jpeg;base64," + base64.b64encode(content).decode() if content else ""

    def _place(self, picture: Path) -> Path:
        name = os.fsencode(os.path.abspath(picture))
        return self.folder / f"{hashlib.sha256(name).hexdigest()[:24]}.jpg"


def _state(picture: Path) -> bytes:
    """What tells a changed file from the one that was there: its size and time."""
    stat = picture.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}".encode()
