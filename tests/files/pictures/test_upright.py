"""A whole picture is read upright, whatever else its EXIF block says."""

from __future__ import annotations

import io
import random
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from smoothtool.files.lists.points import load_mask
from smoothtool.files.pictures.images import load_image
from smoothtool.files.pictures.picture_sizes import upright_size_px
from smoothtool.files.pictures.upright import exif_orientation, orientation

TAGS = (0, 0x010F, 0x011A, 0x0128, 0x0132, 0x014A, 0x02BC, 0x1234, 0x83BB, 0x8769, 0x8773, 0x8825, 0x9286, 0x927C)
TYPES = (*range(20), 999, 65535)
COUNTS = (0, 1, 2, 3, 100, 65536, 2**31, 2**32 - 1)
VALUES = (0, 1, 8, 10, 26, 50, 0x323232, 2**31, 2**32 - 1)
SIZE = (24, 16)


def entry(tag: int, kind: int, count: int, value: int, order: str = "<") -> bytes:
    return struct.pack(f"{order}HHII", tag, kind, count, value)


def block(*entries: bytes, order: str = "<") -> bytes:
    head = b"II*\0" if order == "<" else b"MM\0*"
    return head + struct.pack(f"{order}LH", 8, len(entries)) + b"".join(entries) + b"\0\0\0\0"


def odd_blocks(count: int) -> Iterator[tuple[bytes, bool]]:
    """EXIF blocks with an orientation of 6 beside an entry that makes no sense; whether it can still be read."""
    rng = random.Random(0)
    for _ in range(count):
        odd = entry(*(rng.choice(list(part)) for part in (TAGS, TYPES, COUNTS, VALUES)))
        entries = [odd, entry(0x0112, 3, 1, 6)]
        rng.shuffle(entries)
        whole = block(*entries)
        yield (whole, True) if rng.random() < 0.8 else (whole[: rng.randrange(4, 20)], False)
    for hopeless in (b"no tiff header here", b"\0" * 50, b"Exif\0\0" * 9, b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0"):
        yield hopeless, False


def encoded(kind: str, exif: bytes) -> bytes:
    """A picture of `SIZE` with that EXIF block, which no library has looked at."""
    file = io.BytesIO()
    picture = Image.linear_gradient("L").resize(SIZE).convert("RGB")
    if kind == "JPEG":
        picture.save(file, "JPEG")
        content, segment = file.getvalue(), b"Exif\0\0" + exif
        return content[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + content[2:]
    if kind == "AVIF":
        kept = block(*(entry(0x0100 + number, 3, 1, 2) for number in range(9)))
        picture.save(file, "AVIF", exif=kept, speed=10)
        content, exif = file.getvalue(), exif[: len(kept)]
        at = content.index(b"II*\0")
        return content[:at] + exif + content[at + len(exif) :]
    picture.save(file, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    return file.getvalue()


@pytest.mark.parametrize(("kind", "count"), [("JPEG", 300), ("PNG", 100), ("WEBP", 100), ("AVIF", 40)])
def test_odd_exif_stops_no_picture_and_hides_no_orientation(tmp_path: Path, kind: str, count: int) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow cannot write AVIF")
    path, (width, height) = tmp_path / "a", SIZE
    for exif, is_readable in odd_blocks(count):
        path.write_bytes(encoded(kind, exif))
        found = load_image(path)
        assert found.info["notes"] == []
        if kind != "AVIF":  # which keeps its turning outside of EXIF
            assert found.size == ((height, width) if is_readable else SIZE), exif
            assert upright_size_px(path) == found.size


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("kind", "value"), [(3, 6), (4, 6), (1, 6)])
def test_orientations_of_every_whole_number_type_are_read(order: str, kind: int, value: int) -> None:
    shift = {"<": 0, ">": {3: 16, 4: 0, 1: 24}[kind]}[order]
    assert exif_orientation(block(entry(0x0112, kind, 1, value << shift, order), order=order)) == 6


@pytest.mark.parametrize("value", [0, 1, 9, 274, 65535])
def test_numbers_that_are_no_orientation_turn_nothing(value: int) -> None:
    assert orientation({"exif": block(entry(0x0112, 3, 1, value))}) == 1


@pytest.mark.parametrize(
    "info",
    [
        {"xmp": b'<rdf:Description tiff:Orientation="6"/>'},
        {"XML:com.adobe.xmp": "<tiff:Orientation>6</tiff:Orientation>"},
        {"exif": b"rubbish", "xmp": b"tiff:Orientation='6'"},
        {"Raw profile type exif": "\nexif\n  26\n" + block(entry(0x0112, 3, 1, 6)).hex()},
    ],
)
def test_orientation_is_found_in_xmp_and_in_imagemagicks_profiles(info: dict[str, object]) -> None:
    assert orientation(info) == 6


def test_a_tiff_with_odd_tags_is_read_and_turned_once(tmp_path: Path) -> None:
    pixels = bytes(24 * 16 * 3)
    for odd in ((0x02BC, 3, 3, 50), (0x8773, 2, 1, 50), (0x8773, 5, 1, 10), (0x8769, 4, 1, 2**31)):
        tags = [(256, 3, 1, 24), (257, 3, 1, 16), (258, 3, 3, 1160), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 8),
                (274, 3, 1, 6), (277, 3, 1, 3), (278, 3, 1, 16), (279, 4, 1, len(pixels)), odd]  # fmt: skip
        body = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in sorted(tags)) + b"\0" * 4
        (tmp_path / "a.tif").write_bytes(
            b"II*\0" + struct.pack("<L", 1166) + pixels + struct.pack("<3H", 8, 8, 8) + body
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert load_image(tmp_path / "a.tif").size == upright_size_px(tmp_path / "a.tif") == (16, 24)


def test_a_mask_is_read_upright_too(tmp_path: Path) -> None:
    painted = np.zeros((16, 24), np.uint8)
    painted[:, :4] = 255
    odd = block(entry(0x0112, 3, 1, 6), entry(0x0128, 2, 4, 0x323232))
    see_through = Image.new("RGBA", SIZE, (0, 0, 0, 0))
    see_through.paste((0, 0, 0, 255), (0, 0, 4, 16))
    for picture in (Image.fromarray(painted), see_through):
        picture.save(tmp_path / "mask.png", exif=odd)
        mask = load_mask(tmp_path / "mask.png", (16, 24), fit=False)
        assert mask[:4].all()
        assert not mask[4:].any()
