"""Which way up a picture is. Only its orientation is read: whatever else its EXIF block says may be broken."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

ORIENTATION = ExifTags.Base.Orientation
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
LYING = (5, 6, 7, 8)
"""Orientations of pictures that lie on their side."""
_NUMBERS = {1: "B", 3: "H", 4: "L", 6: "b", 8: "h", 9: "l"}
"""EXIF types of whole numbers, with the letter of `struct`: the standard wants 3, and writers differ."""


def upright(image: Image.Image) -> Image.Image:
    """A loaded picture as it is meant to be seen. TIFF files are turned by Pillow while they are loaded."""
    turn = None if image.format == "TIFF" else _TURNS.get(orientation(image.info))
    return image.copy() if turn is None else image.transpose(turn)


def orientation(info: Mapping[Any, Any]) -> int:
    """1 to 8 as EXIF counts, from the block that Pillow leaves in `info`, else from XMP; 1 where neither says it."""
    found = exif_orientation(_exif_block(info)) or _xmp_orientation(info)
    return found if found in _TURNS else 1


def lies_on_its_side(image: Image.Image) -> bool:
    """Whether width and height of an opened picture, not yet loaded, will be exchanged by `upright`."""
    if image.format != "TIFF":
        return orientation(image.info) in LYING
    tags = getattr(image, "tag_v2", {})
    stored = (tags.get(ExifTags.Base.ImageWidth), tags.get(ExifTags.Base.ImageLength))
    return tags.get(ORIENTATION) in LYING and image.size == stored  # newer Pillows exchange them while opening


def exif_orientation(block: bytes) -> int:
    """The number under the tag of the orientation in an EXIF block; 0 without it, or where the block ends too early."""
    while block.startswith(b"Exif\0\0"):
        block = block[6:]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(block[:4])
    if order is None:
        return 0
    try:
        (start,) = struct.unpack_from(f"{order}L", block, 4)
        (count,) = struct.unpack_from(f"{order}H", block, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", block, entry)
            if tag == ORIENTATION and kind in _NUMBERS:
                return int(struct.unpack_from(order + _NUMBERS[kind], block, entry + 8)[0])
    except struct.error:  # it ends, or points, beyond its last byte
        pass
    return 0


def without_exif(file: Path | BytesIO) -> bytes | None:
    """An AVIF file with its EXIF block disowned: decoders refuse the whole file for it where it is broken.

    None for what is no AVIF file or has no such block. AVIF keeps a rotation outside EXIF, and that stays.
    """
    with file.open("rb") if isinstance(file, Path) else file as opened:
        head = opened.read(64)
        if head[4:8] != b"ftyp" or b"avi" not in head:
            return None
        content = head + opened.read()
    disowned = re.sub(rb"(infe.{8}(?:..)?)Exif", rb"\1free", content, flags=re.DOTALL)
    return None if disowned == content else disowned


def _exif_block(info: Mapping[str, Any]) -> bytes:
    block = info.get("exif")
    if isinstance(block, bytes):
        return block
    profile = info.get("Raw profile type exif")  # ImageMagick's way in PNG: a heading of three lines, then hexadecimal
    if not isinstance(profile, str):
        return b""
    try:
        return bytes.fromhex("".join(profile.split("\n")[3:]))
    except ValueError:
        return b""


def _xmp_orientation(info: Mapping[str, Any]) -> int:
    packet = info.get("XML:com.adobe.xmp") or info.get("xmp") or ""
    text = packet.decode("utf-8", errors="replace") if isinstance(packet, bytes) else str(packet)
    found = re.search(r"tiff:Orientation(?:=[\"']|>)\s*([0-9])", text)
    return int(found[1]) if found else 0
