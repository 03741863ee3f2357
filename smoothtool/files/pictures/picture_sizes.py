"""How large a picture will be, without decoding it."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image

from smoothtool.files.pictures.formats import FORMATS
from smoothtool.files.pictures.upright import lies_on_its_side


def upright_size_px(path: Path) -> tuple[int, int] | None:
    """Width and height that `load_image` will find, from the file's header; None when it cannot be read."""
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=formats) as image:
                width, height = image.size
                return (height, width) if lies_on_its_side(image) else (width, height)
    except Exception:  # decoders meet hostile bytes; `load_image` tells what is wrong
        return None
