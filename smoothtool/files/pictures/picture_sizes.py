"""How large a picture will be, without decoding it."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import ExifTags, Image

from smoothtool.files.pictures.images import FORMATS

TURNED = (5, 6, 7, 8)
"""EXIF orientations of pictures that lie on their side."""


def upright_size_px(path: Path) -> tuple[int, int] | None:
    """Width and height that `load_image` will find, from the file's header; None when it cannot be read."""
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        with warnings.catch_warnings(), Image.open(path, formats=formats) as image:
            warnings.simplefilter("ignore")
            width, height = image.size
            return (height, width) if image.getexif().get(ExifTags.Base.Orientation) in TURNED else (width, height)
    except Exception:  # decoders meet hostile bytes; `load_image` tells what is wrong
        return None
