"""Text from files of any editor: by its byte order mark, else as UTF-8; anything else is refused, never guessed."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from smoothtool.errors import InputError, SmoothtoolError
from smoothtool.readers.regular import read_regular

LARGEST_TEXT_BYTES = 50_000_000
_MARKS = (  # UTF-32's little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32-le", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32-be", "UTF-32"),
    (codecs.BOM_UTF8, "utf-8", "UTF-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16"),
)
MARKS = tuple(mark for mark, _, _ in _MARKS)
"""How text begins that says its encoding."""
_MARKS_OF_JOINED_FILES = re.compile("^\ufeff+", re.MULTILINE)
_NO_LETTER = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
"""Control characters other than white space: other files than texts hold them, and so do encodings in seven bits, as
ISO-2022-JP, whose bytes would pass for UTF-8."""
_END_IN_DOS = "\x1a"


def read_text(
    path: Path,
    *,
    limit_bytes: int = LARGEST_TEXT_BYTES,
    fault: type[SmoothtoolError] = InputError,
    hint: str = "save it as UTF-8",
) -> str:
    """The text in a file, without byte order marks at the start of lines; line ends stay as they are.

    Raises: `fault` when the file cannot be read, is over the limit, is no text in UTF-8, UTF-16 or UTF-32, or holds
    control characters.
    """
    return decode_text(read_regular(path, limit_bytes=limit_bytes, fault=fault, hint=hint), str(path), fault, hint)


def decode_text(
    content: bytes, place: str, fault: type[SmoothtoolError] = InputError, hint: str = "save it as UTF-8"
) -> str:
    """The same of bytes that came from `place`, which errors name."""
    mark, codec, name = next((row for row in _MARKS if content.startswith(row[0])), (b"", "utf-8", "UTF-8"))
    try:
        text = content[len(mark) :].decode(codec)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise fault(f"{place}:{line}: is not {name} text", hint) from error
    text = _MARKS_OF_JOINED_FILES.sub("", text).removesuffix(_END_IN_DOS)
    if found := _NO_LETTER.search(text):
        line = text[: found.start()].count("\n") + 1
        what = "zero bytes: it is no text, or UTF-16 without its mark"
        other = "control characters: it is no text, or in another encoding"
        raise fault(f"{place}:{line}: holds {what if found[0] == chr(0) else other}", hint)
    return text
