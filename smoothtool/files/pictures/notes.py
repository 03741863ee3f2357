"""What reading pictures left out or guessed, said once for all pictures that it is true of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from PIL import Image


@dataclass
class PictureNotes:
    """Collects the notes of `load_image`, by what they say."""

    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, picture: Image.Image) -> Image.Image:
        """The picture again, after taking its notes."""
        for what in picture.info.get("notes", ()):
            self.names.setdefault(what, []).append(name)
        return picture

    def join(self, names: Mapping[str, list[str]]) -> None:
        """Take in the `names` of another collection."""
        for what, more in names.items():
            self.names.setdefault(what, []).extend(more)

    def lines(self) -> list[str]:
        """A line for each kind of note, with the first picture that it is about and how many more there are."""
        lines = []
        for what, names in self.names.items():
            others = len(dict.fromkeys(names)) - 1
            more = f" and {others} other{'s' * (others > 1)}" if others else ""
            lines.append(f"{names[0]}{more}: {what}")
        return lines
