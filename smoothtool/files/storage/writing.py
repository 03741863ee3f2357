"""The one writer of files: each is whole or as it was, with the usual rights, and a full disk is one sentence."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smoothtool.errors import storage_error
from smoothtool.files.storage.leftovers import temporary_file
from smoothtool.readers.regular import check_regular
from smoothtool.yaml12 import dump_yaml

if TYPE_CHECKING:
    from PIL import Image


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Write to the path handed out; it takes the place of `path` at the end, and is gone after any exception.

    Raises: StorageError with the name of `path` for any OSError of the writing.
    """
    try:
        with temporary_file(path) as temporary:
            yield temporary
            os.replace(temporary, path)
    except OSError as error:
        raise storage_error(path, error) from error


def write_bytes_atomic(path: Path, content: bytes | Iterable[bytes | memoryview]) -> None:
    """Whole, or part by part. Raises: StorageError."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        for part in [content] if isinstance(content, bytes) else content:
            file.write(part)


def write_text_atomic(path: Path, text: str | Iterable[str]) -> None:
    """UTF-8, whole or part by part; undecodable bytes of a command line (lone surrogates) become question marks."""
    write_bytes_atomic(
        path, (part.encode("utf-8", errors="replace") for part in ([text] if isinstance(text, str) else text))
    )


def write_json_atomic(path: Path, data: Any) -> None:
    """Indented JSON that every parser reads: what is not finite becomes null."""
    write_text_atomic(path, json.dumps(plain(data), indent=2, allow_nan=False) + "\n")


def write_yaml(path: Path, data: Any) -> None:
    """Plain data as YAML."""
    write_text_atomic(path, dump_yaml(plain(data)))


def write_picture(path: Path, image: Image.Image, **options: Any) -> None:
    """`options` are Pillow's; without a `format` among them, the suffix of `path` says it.

    Encoded in memory first: Pillow's encoders do not say why a file cannot be written.
    """
    from PIL import Image

    buffer = BytesIO()
    Image.init()
    image.save(buffer, options.pop("format", None) or Image.EXTENSION[path.suffix.lower()], **options)
    write_bytes_atomic(path, buffer.getvalue())


def start_log(path: Path) -> None:
    """Make sure that lines can be added. Raises: StorageError, and InputError when a pipe or device is there."""
    if os.path.exists(path):
        check_regular(path)
    try:
        path.open("ab").close()
    except OSError as error:
        raise storage_error(path, error) from error


def append_line(path: Path, line: str) -> None:
    """Add a line, after ending the one that an interrupted write may have left open. Raises: StorageError."""
    content = line.encode("utf-8", errors="replace") + b"\n"
    try:
        with path.open("a+b") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                content = content if file.read(1) == b"\n" else b"\n" + content
            file.write(content)
    except OSError as error:
        raise storage_error(path, error) from error


def plain(data: Any) -> Any:
    """Dicts, lists, text, numbers, booleans and None alone; paths become text, non-finite numbers None.

    Raises: TypeError for anything else, so that a tensor or an object never lands in a report by accident.
    """
    if data is None or isinstance(data, (bool, str)):
        return data
    if isinstance(data, Integral):
        return int(data)
    if isinstance(data, Real):
        return float(data) if math.isfinite(data) else None
    if isinstance(data, Path):
        return str(data)
    if isinstance(data, dict):
        return {str(key): plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [plain(value) for value in data]
    raise TypeError(f"a {type(data).__name__} cannot be written as plain data")
