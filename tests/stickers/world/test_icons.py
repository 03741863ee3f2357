"""The icons of the sticker world are fetched once, whoever asks."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from smoothtool.stickers.world.icons import CONCEPTS, ICON_SETS, STYLES, fetch_icons


def pack(arguments: list[str], cwd: Path, **options: Any) -> SimpleNamespace:
    """What `npm pack` does: an archive of the package under a name of its own in the working folder."""
    pattern = dict(ICON_SETS.values())[arguments[2]]
    archive = cwd / f"{arguments[2].strip('@').replace('/', '-')}.tgz"
    suffix = Path(pattern).suffix.lstrip(".")
    picture = io.BytesIO()
    Image.new("RGB", (2, 2), "red").save(picture, suffix)
    with tarfile.open(archive, "w:gz") as tar:
        for code in CONCEPTS.values():
            member = tarfile.TarInfo(pattern.format(code=code))
            member.size = len(picture.getvalue())
            tar.addfile(member, io.BytesIO(picture.getvalue()))
    return SimpleNamespace(stdout=f"{archive.name}\n")


def icons_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


ALL = {f"{style}/{code}.png" for style in STYLES for code in CONCEPTS.values()}


def test_icons_that_another_process_fetches_meanwhile_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: list[str] = []

    def while_another_fetches(arguments: list[str], **options: Any) -> SimpleNamespace:
        made = pack(arguments, **options)
        packed.append(arguments[2])
        if len(packed) == 1:
            fetch_icons(tmp_path)  # from beginning to end, between our packing and our unpacking
        return made

    monkeypatch.setattr(subprocess, "run", while_another_fetches)
    fetch_icons(tmp_path)
    assert icons_in(tmp_path) == ALL
    assert len(packed) == len(STYLES) + 1  # the first set twice, the others by the one that came first


def test_icons_that_lie_there_are_not_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", pack)
    fetch_icons(tmp_path)
    monkeypatch.setattr(subprocess, "run", None)
    fetch_icons(tmp_path)


def test_a_set_with_a_damaged_icon_is_fetched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", pack)
    fetch_icons(tmp_path)
    damaged = tmp_path / "flat" / f"{CONCEPTS['fox']}.png"
    whole = damaged.read_bytes()
    for content in (b"", whole[:45]):
        damaged.write_bytes(content)
        fetch_icons(tmp_path)
        assert damaged.read_bytes() == whole
