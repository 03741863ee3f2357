"""Captioned pictures in webdataset shards: tar files in which a picture and its caption share a name.

A shard is read where it lies: one pass over its headers finds every picture's place, and pictures are read from there
when they are needed, so that the order of training stays a function of (seed, step) as with folders.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from braceexpand import braceexpand
from PIL import Image

from smoothtool.errors import InputError
from smoothtool.files.lists.captioned import CaptionedPicture
from smoothtool.files.lists.captions import LARGEST_SIDECAR_BYTES, SIDECAR_SUFFIXES, sidecar_captions
from smoothtool.files.lists.metadata import captions_of, check_captions
from smoothtool.files.pictures.formats import PICTURE_SUFFIXES, is_picture
from smoothtool.files.pictures.images import load_image
from smoothtool.readers.fields import parse_json
from smoothtool.readers.regular import at_home

HINT = "uncompressed .tar shards on this machine, with NAME.jpg and NAME.txt (or NAME.json) for each picture"
Member = tuple[tarfile.TarInfo, bytes]
"""A file of a shard, with its content if it may hold a caption."""


def find_shards(data: str) -> list[Path]:
    """The shards that training data names: a folder of .tar files, `a.tar` or `a-{000..011}.tar`; or none.

    Raises: InputError when the braces of a pattern do not close.
    """
    folder = at_home(data)
    if os.path.isdir(folder):
        others = any(is_picture(path) or path.stem == "metadata" for path in folder.iterdir())
        return [] if others else sorted(folder.glob("*.tar"))
    if not data.endswith(".tar"):
        return []
    try:
        return [at_home(name) for name in braceexpand(data)]
    except ValueError as error:
        raise InputError(f"{data}: the braces do not close", "a-{000..011}.tar") from error


def read_shards(shards: list[Path]) -> tuple[list[CaptionedPicture], list[str]]:
    """The pictures with their captions in the shards' order, and a line for each one that cannot be used.

    Raises: InputError when a shard is missing, or nothing is usable.
    """
    complaints: list[str] = []
    found: list[CaptionedPicture] = []
    for shard in shards:
        if not os.path.isfile(shard):
            raise InputError(f"{shard}: there is no such shard", HINT)
        for files in _samples(_members(shard, complaints)):
            picture, complaint = _picture(shard, files)
            found += [picture] if picture else []
            complaints += [complaint] if complaint else []
    if not found:
        reason = f" ({complaints[0]})" if complaints else ""
        raise InputError(f"{shards[0]}: there are no captioned pictures in the shards{reason}", HINT)
    return found, complaints


def _members(shard: Path, complaints: list[str]) -> Iterator[Member]:
    """The regular files of a shard, up to where it is damaged."""
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                if member.isreg():
                    stream = tar.extractfile(member) if _may_be_caption(member) else None
                    yield member, stream.read() if stream else b""
    except (tarfile.TarError, OSError) as error:
        complaints.append(f"{shard.name}: the shard is damaged, and is read no further ({error})")


def _may_be_caption(member: tarfile.TarInfo) -> bool:
    return member.name.lower().endswith((*SIDECAR_SUFFIXES, ".json")) and member.size <= LARGEST_SIDECAR_BYTES


def _samples(members: Iterator[Member]) -> Iterator[dict[str, Member]]:
    """Neighbours of one name up to its first dot, by what follows it: `.jpg`, `.txt`."""
    name, files = None, dict[str, Member]()
    for member in members:
        folder, _, file_name = member[0].name.rpartition("/")
        stem, _, suffix = file_name.partition(".")
        if not stem or not suffix:
            continue
        base = (folder, stem)
        if base != name and files:
            yield files
            files = {}
        name = base
        files.setdefault(f".{suffix.lower()}", member)
    if files:
        yield files


def _picture(shard: Path, files: dict[str, Member]) -> tuple[CaptionedPicture | None, str]:
    """The picture of a sample, or why there is none."""
    kind = next((suffix for suffix in sorted(PICTURE_SUFFIXES) if suffix in files), "")
    member = files[kind][0] if kind else None
    try:
        captions = _captions(files, kind, shard.name)
    except InputError as error:
        return None, f"{shard.name}/{member.name if member else ''}: {error.what}"
    if member is None:
        first, _ = next(iter(files.values()))
        return None, f"{shard.name}/{first.name}: there is a caption, and no picture of that name" if captions else ""
    if not captions:
        return None, f"{shard.name}/{member.name}: there is no caption for this picture"
    stat = shard.stat()
    version = f"{stat.st_size}-{stat.st_mtime_ns}-{member.offset_data}"
    load = partial(_load, shard, member.name, member.offset_data, member.size)
    return CaptionedPicture(f"{shard.name}/{member.name}", captions, load, version), ""


def _captions(files: dict[str, Member], kind: str, shard: str) -> tuple[str, ...]:
    """A picture's captions, looked for in the order of `PictureCaptions`, then in its .json.

    kind  the picture's own suffix
    Raises: InputError when it is no text, or too long to be a caption.
    """
    for suffix in SIDECAR_SUFFIXES:
        for member, content in (files[name] for name in (kind + suffix, suffix) if name in files):
            if captions := sidecar_captions(content, f"{shard}/{member.name}"):
                return captions
    if ".json" not in files:
        return ()
    member, content = files[".json"]
    place = f"{shard}/{member.name}"
    return check_captions(captions_of(parse_json(content, place)), place)


def _load(shard: Path, name: str, offset: int, size: int) -> Image.Image:
    try:
        with shard.open("rb") as file:
            file.seek(offset)
            content = file.read(size)
    except OSError as error:
        raise InputError(f"{shard}: cannot be read ({error.strerror})", "the shard where it was") from error
    return load_image(shard / name, content=content)
