"""Text is read by its mark or as UTF-8; what is neither is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from smoothtool.errors import InputError
from smoothtool.readers.text import decode_text, read_text

WORDS = "ein grüner Apfel 🍏\r\nund\u2028mehr"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_with_a_mark_or_in_utf8_is_read_as_it_was_written(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.txt").write_bytes(WORDS.encode(encoding))
    assert read_text(tmp_path / "a.txt") == WORDS


@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-32-be"])
def test_big_endian_marks_are_known(encoding: str) -> None:
    assert decode_text("\ufeffa".encode(encoding), "a.txt") == "a"


def test_other_encodings_are_refused_with_their_line() -> None:
    with pytest.raises(InputError) as refused:
        decode_text("eins\nein grüner Apfel".encode("latin-1"), "a.txt")
    assert str(refused.value) == "a.txt:2: is not UTF-8 text / try: save it as UTF-8"


def test_utf16_without_its_mark_is_refused() -> None:
    with pytest.raises(InputError, match="zero bytes"):
        decode_text("an apple".encode("utf-16-le"), "a.txt")


def test_a_cut_utf16_file_is_refused() -> None:
    with pytest.raises(InputError, match="is not UTF-16 text"):
        decode_text("an apple".encode("utf-16")[:-1], "a.txt")


@pytest.mark.parametrize(
    "content", ["林檎\n".encode("iso-2022-jp"), b"PK\x03\x04 apple", b"an \x1b[31mapple", b"an\x08 apple", b"apple\x7f"]
)
def test_control_characters_are_no_text(content: bytes) -> None:
    with pytest.raises(InputError, match=r"a\.txt:2: holds control characters"):
        decode_text(b"\n" + content, "a.txt")


def test_marks_of_joined_files_and_the_end_mark_of_dos_are_left_out() -> None:
    joined = b"\xef\xbb\xbfan apple\r\n\xef\xbb\xbfa\xef\xbb\xbfpear\n\x1a"
    assert decode_text(joined, "a.txt") == "an apple\r\na\ufeffpear\n"
