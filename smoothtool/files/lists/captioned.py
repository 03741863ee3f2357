"""A picture with its captions, as training and the tables of the paper take them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class CaptionedPicture:
    """A picture that is read when it is needed. `version` changes when its content does."""

    name: str
    captions: tuple[str, ...]
    load: Callable[[], Image.Image]
    version: str = ""
