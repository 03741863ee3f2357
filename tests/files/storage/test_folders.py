"""What is found below a folder: links are followed to their end, and only hidden files and results stay out."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from smoothtool.files.storage.folders import Below


@pytest.fixture
def below(tmp_path: Path) -> Callable[..., list[str]]:
    """The files below a folder, as paths from it, after making the files named."""

    def go(*names: str) -> list[str]:
        for name in names:
            (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "in" / name).touch()
        return sorted(os.path.relpath(name, tmp_path / "in") for name in Below(tmp_path / "in"))

    return go


def test_hidden_files_folders_and_results_stay_out(below: Callable[..., list[str]]) -> None:
    names = ("a.png", ".b.png", ".hidden/c.png", "out/report.json", "out/d.png", "deep/er/e.png", "batch.json")
    assert below(*names) == ["a.png", "batch.json", "deep/er/e.png"]


def test_linked_files_and_folders_are_followed(below: Callable[..., list[str]], tmp_path: Path) -> None:
    (tmp_path / "store" / "sub").mkdir(parents=True)
    (tmp_path / "store" / "sub" / "x.png").touch()
    below("a.png")
    (tmp_path / "in" / "folder").symlink_to(tmp_path / "store")
    (tmp_path / "in" / "file.png").symlink_to(tmp_path / "store" / "sub" / "x.png")
    assert below() == ["a.png", "file.png", "folder/sub/x.png"]


def test_a_folder_to_which_several_ways_lead_is_entered_once_by_its_own_name(
    below: Callable[..., list[str]], tmp_path: Path
) -> None:
    below("z/x.png", "y/w.png")
    for place, target in (("a", "z"), ("z/up", "."), ("y/loop", "y"), ("b", "a"), ("z/there", "y"), ("y/back", "z")):
        (tmp_path / "in" / place).symlink_to(tmp_path / "in" / target)
    assert below() == ["y/w.png", "z/x.png"]


def test_hundreds_of_links_to_each_other_end(below: Callable[..., list[str]], tmp_path: Path) -> None:
    below(*(f"{number}/x.png" for number in range(20)))
    for first in range(20):
        for second in range(20):
            (tmp_path / "in" / str(first) / f"to-{second}").symlink_to(tmp_path / "in" / str(second))
    assert len(below()) == 20


def test_a_link_that_leads_nowhere_is_a_file_to_be_told_of(below: Callable[..., list[str]], tmp_path: Path) -> None:
    below("a.png")
    (tmp_path / "in" / "gone.png").symlink_to(tmp_path / "nothing")
    assert below() == ["a.png", "gone.png"]


def test_a_folder_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = Below(tmp_path)
    assert list(found) == []
    assert found.problems == [f"left out: {tmp_path} cannot be read (Permission denied)"]
