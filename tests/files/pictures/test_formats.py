"""One list of formats for every door, and a name for whatever stays outside."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, features

from smoothtool.errors import InputError
from smoothtool.files.pictures.formats import FORMATS, PICTURE_SUFFIXES, UNREADABLE, is_picture, left_out
from smoothtool.files.pictures.images import load_image


def test_the_list_holds_every_suffix_that_pillow_knows_for_these_formats() -> None:
    Image.init()
    known = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    assert known <= PICTURE_SUFFIXES
    assert set(FORMATS) <= {*Image.OPEN, "AVIF", "MPO"}  # MPO files come in through JPEG's door


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "MPO"])
def test_a_picture_of_every_format_is_read(tmp_path: Path, name: str) -> None:
    if name in ("AVIF", "JPEG2000") and not features.check({"AVIF": "avif", "JPEG2000": "jpg_2000"}[name]):
        pytest.skip("this Pillow has no library for it")
    for suffix in FORMATS[name]:
        Image.new("RGB", (16, 16), "red").save(tmp_path / f"a{suffix}", format=name)
        assert load_image(tmp_path / f"a{suffix}").size == (16, 16)
        assert is_picture(f"A{suffix.upper()}")


def test_no_suffix_is_on_both_lists() -> None:
    assert not PICTURE_SUFFIXES & {suffix for suffixes in UNREADABLE.values() for suffix in suffixes}


def test_a_picture_of_another_format_is_refused_by_its_name(tmp_path: Path) -> None:
    for name, content, kind in (
        ("a.heic", b"\0\0\0\x18ftypheic", "HEIC"),
        ("a.jpg", b"\0\0\0\x18ftypmif1", "HEIC"),
        ("b.jxl", b"\xff\x0a", "JPEG XL"),
        ("c.png", b"%PDF-1.7", "PDF"),
        ("d.nef", b"II*\0 whatever", "camera raw"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name}: this is a {kind} file"):
            load_image(tmp_path / name)


def test_what_is_left_out_is_told_in_one_line() -> None:
    assert left_out([]) == ""
    assert "1 picture of a format that is not read (c.heic)" in left_out(["c.heic"])
    assert "9 pictures of formats that are not read (0.jxl, 1.jxl, 2.jxl, 3.jxl, 4.jxl, …)" in left_out(
        f"{number}.jxl" for number in range(9)
    )
