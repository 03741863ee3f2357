"""index.html: the results of a batch on one page that needs nothing but itself."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from smoothtool.errors import SmoothtoolError
from smoothtool.files.images import load_image

TEMPLATES = Path(__file__).parent / "templates"
THUMBNAIL_PX = 256
QUALITY = 80


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


def gallery_page(title: str, counts: Mapping[str, int], cards: Sequence[Card]) -> str:
    """HTML with thumbnails inside; everything that people wrote is escaped, and nothing is loaded from elsewhere."""
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined,
                              trim_blocks=True, lstrip_blocks=True)  # fmt: skip
    environment.filters["url"] = lambda text: quote(text.encode("utf-8", "replace"))
    thumbnails: dict[Path, str] = {}

    def thumbnail(path: Path | None) -> str:
        """A data URI; empty without a picture. The same source under many settings is read once."""
        if path is not None and path not in thumbnails:
            thumbnails[path] = _data_uri(path)
        return thumbnails[path] if path else ""

    metrics = sorted({name for card in cards for name in card.metrics})
    template = environment.get_template("gallery.html.j2")
    return template.render(title=title, counts=counts, cards=cards, metrics=metrics, thumbnail=thumbnail)


def _data_uri(path: Path) -> str:
    try:
        picture = load_image(path)
    except (SmoothtoolError, OSError):
        return ""
    picture.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
