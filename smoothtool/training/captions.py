"""Captioned pictures: a folder as in Hugging Face's ImageFolder, or with a text file beside each picture."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

from smoothtool.errors import InputError
from smoothtool.files.lists.captioned import CaptionedPicture
from smoothtool.files.pictures.images import load_image

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".avif"}
CAPTIONS = (".txt", ".caption")
CAPTION_COLUMNS = ("text", "caption", "prompt")
HINT = "a folder with metadata.jsonl (file_name, text), or with a .txt beside each picture"


def read_captioned_folder(folder: Path) -> tuple[list[CaptionedPicture], list[str]]:
    """The pictures with their captions in a stable order, and a line for each one that cannot be used.

    Raises: InputError when there is no folder, or nothing usable in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder", HINT)
    complaints: list[str] = []
    metadata = _metadata_file(folder)
    captions = dict(_metadata_rows(metadata, complaints) if metadata else _sidecar_rows(folder, complaints))
    if metadata:
        names = (str(path.relative_to(folder)) for path in _pictures_of(_files(folder)))
        complaints += [f"{name}: there is no caption for this picture" for name in names if name not in captions]
    found = []
    for name, texts in sorted(captions.items()):
        path = folder / name
        try:
            if not path.resolve().is_relative_to(folder.resolve()):
                complaints.append(f"{name}: lies outside the data folder")
            elif not path.is_file():
                complaints.append(f"{name}: there is a caption, and no such picture")
            else:
                stat = path.stat()
                version = f"{stat.st_size}-{stat.st_mtime_ns}"
                found.append(CaptionedPicture(name, texts, partial(load_image, path), version))
        except (OSError, ValueError):  # too long, or with a NUL
            complaints.append(f"{name[:80]!r}: is not the name of a file")
    if not found:
        reason = f" ({complaints[0]})" if complaints else ""
        raise InputError(f"{folder}: there are no captioned pictures in it{reason}", HINT)
    return found, complaints


def _metadata_file(folder: Path) -> Path | None:
    paths = (folder / name for name in ("metadata.jsonl", "metadata.csv"))
    return next((path for path in paths if path.is_file()), None)


def _metadata_rows(path: Path, complaints: list[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text", HINT) from error
    for number, row in _json_rows(text) if path.suffix == ".jsonl" else _csv_rows(text, path):
        captions = captions_of(row)
        if not isinstance(row, dict) or not isinstance(row.get("file_name"), str) or not captions:
            complaints.append(f"{path.name}:{number}: needs file_name and one of {', '.join(CAPTION_COLUMNS)}")
        else:
            yield row["file_name"], captions


def _json_rows(text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.split("\n"), start=1):  # a caption may hold other line breaks, as U+2028
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                yield number, None


def _csv_rows(text: str, path: Path) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(StringIO(text, newline=""))
    try:
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise InputError(f"{path}:{reader.reader.line_num}: cannot be read as CSV ({error})", HINT) from error


def captions_of(row: Any) -> tuple[str, ...]:
    """The captions in a row of metadata: a text or a list of texts under one of `CAPTION_COLUMNS`."""
    found = next((row[key] for key in CAPTION_COLUMNS if row.get(key)), ()) if isinstance(row, dict) else ()
    texts = [found] if isinstance(found, str) else found if isinstance(found, list) else []
    return tuple(" ".join(text.split()) for text in texts if isinstance(text, str) and text.strip())


def one_line_each(text: str) -> tuple[str, ...]:
    """The captions of a sidecar file."""
    return tuple(" ".join(line.split()) for line in text.splitlines() if line.strip())


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if not path.name.startswith(".")]


def _pictures_of(files: list[Path]) -> list[Path]:
    return [path for path in files if path.suffix.lower() in PICTURES]


def _sidecar_rows(folder: Path, complaints: list[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    files = _files(folder)
    pictures = _pictures_of(files)
    stems = {path.with_suffix("") for path in pictures}
    for path in files:
        if path.suffix in CAPTIONS and path.with_suffix("") not in stems:
            complaints.append(f"{path.relative_to(folder)}: there is a caption, and no picture of that name")
    for path in pictures:
        name = str(path.relative_to(folder))
        sidecar = next((path.with_suffix(suffix) for suffix in CAPTIONS if path.with_suffix(suffix).is_file()), None)
        text = "" if sidecar is None else sidecar.read_text(encoding="utf-8-sig", errors="replace").strip()
        if text:
            yield name, one_line_each(text)
        else:
            complaints.append(f"{name}: there is no caption for this picture")
