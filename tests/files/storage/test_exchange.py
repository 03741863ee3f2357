"""A folder takes another's place in one step, or in two of which the first can be undone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from storage_toys import kill_at_every_moment, names

from smoothtool.errors import StorageError
from smoothtool.files.storage import exchange
from smoothtool.files.storage.leftovers import sweep_leftovers
from smoothtool.files.storage.output import new_folder, output_folder


@pytest.fixture(params=["one step", "two steps"])
def both(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An earlier result, on a disk that can swap two names and on one that cannot."""
    if request.param == "two steps":
        monkeypatch.setattr(exchange, "_swapped", lambda one, other: False)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").write_text("old")
    return tmp_path / "out"


def replace(folder: Path) -> None:
    with new_folder(folder, force=True) as new:
        (new / "report.json").write_text("new")


def test_the_new_folder_stands_and_nothing_else_is_left(both: Path) -> None:
    replace(both)
    assert (both / "report.json").read_text() == "new"
    assert names(both.parent) == ["out"]


def test_a_kill_at_any_moment_leaves_the_old_or_the_new_and_the_next_run_sweeps(both: Path) -> None:
    def check() -> None:
        output_folder(both, force=True)
        sweep_leftovers(both.parent)
        assert names(both.parent) == ["out"]
        assert names(both) == ["report.json"]
        assert (both / "report.json").read_text() in ("old", "new")

    assert kill_at_every_moment(lambda: replace(both), check) > 8
    assert (both / "report.json").read_text() == "new"


def test_a_result_that_was_set_aside_comes_back_and_one_that_was_replaced_goes(tmp_path: Path) -> None:
    aside = exchange._aside(tmp_path / "out")
    aside.mkdir()
    (aside / "report.json").write_text("old")
    assert output_folder(tmp_path / "out", force=True) == tmp_path / "out"
    assert (tmp_path / "out" / "report.json").read_text() == "old"
    aside.mkdir()
    output_folder(tmp_path / "out", force=True)
    assert names(tmp_path) == ["out"]


def test_a_failed_replacement_puts_the_earlier_result_back(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renames, true_rename = [], os.rename

    def fail_second(source: Path, target: Path) -> None:
        renames.append(target)
        if len(renames) == 2:
            raise OSError(5, "Input/output error")
        true_rename(source, target)

    monkeypatch.setattr(os, "rename", fail_second)
    monkeypatch.setattr(exchange, "_swapped", lambda one, other: False)
    with pytest.raises(StorageError, match="Input/output"):
        replace(both)
    assert names(both.parent) == ["out"]
    assert (both / "report.json").read_text() == "old"
