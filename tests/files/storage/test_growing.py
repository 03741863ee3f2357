"""A folder that grows is gone on with, or begun again beside what it holds, and never worked on by two at once."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from storage_toys import kill_at_every_moment, names

from smoothtool.errors import UsageError
from smoothtool.files.storage.growing import AGAIN, growing_folder
from smoothtool.files.storage.leftovers import sweep_leftovers
from smoothtool.files.storage.writing import append_line, write_text_atomic


def is_ours(folder: Path) -> bool:
    return (folder / "log").is_file()


def work(folder: Path, text: str, *, force: bool = False, stop: type[BaseException] | None = None) -> None:
    with growing_folder(folder, is_ours=is_ours, force=force).opened(alone=True) as place:
        append_line(place / "log", text)
        if stop is not None:
            raise stop
        write_text_atomic(place / "report.json", text)


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    work(tmp_path / "out", "old")
    return tmp_path / "out"


def test_a_second_run_goes_on(earlier: Path) -> None:
    work(earlier, "more")
    assert (earlier / "log").read_text() == "old\nmore\n"


def test_nothing_is_touched_before_the_folder_is_opened(earlier: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in earlier.iterdir()}
    growing_folder(earlier, is_ours=is_ours, force=True)
    growing_folder(earlier.with_name("new"), is_ours=is_ours, force=False)
    assert {path.name: path.stat().st_mtime_ns for path in earlier.iterdir()} == before
    assert names(earlier.parent) == ["out"]


def test_begun_again_the_old_result_stays_until_the_new_one_is_done(earlier: Path) -> None:
    with growing_folder(earlier, is_ours=is_ours, force=True).opened(alone=True) as place:
        append_line(place / "log", "new")
        assert (earlier / "log").read_text() == "old\n"
    assert names(earlier) == ["log"]
    assert (earlier / "log").read_text() == "new\n"
    assert names(earlier.parent) == ["out"]


def test_begun_again_and_stopped_the_old_stands_and_the_next_run_goes_on_with_the_new(earlier: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        work(earlier, "new", force=True, stop=KeyboardInterrupt)
    assert (earlier / "report.json").read_text() == "old"
    work(earlier, "more")
    assert (earlier / "log").read_text() == "new\nmore\n"
    assert not (earlier / AGAIN).exists()


def test_begun_again_twice_nothing_of_the_first_attempt_is_left(earlier: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        work(earlier, "first", force=True, stop=KeyboardInterrupt)
    work(earlier, "second", force=True)
    assert (earlier / "log").read_text() == "second\n"


def test_a_result_of_another_command_is_replaced_whole_by_force_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.json").write_text("{}")
    (tmp_path / "out" / "edited.png").write_text("old")
    with pytest.raises(UsageError, match="not empty"):
        work(tmp_path / "out", "new")
    work(tmp_path / "out", "new", force=True)
    assert names(tmp_path / "out") == ["log", "report.json"]


def test_a_run_that_fails_before_it_has_anything_leaves_no_folder(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="no"),
        growing_folder(tmp_path / "out", is_ours=is_ours, force=False).opened(alone=True),
    ):
        raise ValueError("no")
    assert names(tmp_path) == []


def test_a_kill_at_any_moment_of_beginning_again_leaves_the_old_or_the_new(earlier: Path) -> None:
    def check() -> None:
        sweep_leftovers(earlier.parent)
        assert names(earlier.parent) == ["out"]
        assert (earlier / "report.json").read_text() in ("old", "new")
        assert (earlier / "log").read_text().split() == [(earlier / "report.json").read_text()]

    assert kill_at_every_moment(lambda: work(earlier, "new", force=True), check) > 10
    assert (earlier / "report.json").read_text() == "new"


def test_a_second_run_at_the_same_time_says_so_and_one_after_a_kill_may_go_on(earlier: Path) -> None:
    code = """import sys, time, pathlib
from smoothtool.files.storage.growing import growing_folder
folder = pathlib.Path(sys.argv[1])
with growing_folder(folder, is_ours=lambda folder: True, force=False).opened(alone=True):
    (folder / "inside").touch()
    time.sleep(60)
"""
    other = subprocess.Popen([sys.executable, "-c", code, str(earlier)])
    try:
        end = time.monotonic() + 30
        while not (earlier / "inside").exists() and time.monotonic() < end:
            time.sleep(0.01)
        with pytest.raises(UsageError, match="out: another run is at work there"):
            work(earlier, "more")
        with pytest.raises(UsageError, match="another run is at work"):
            work(earlier, "again", force=True)
    finally:
        other.kill()
        other.wait()
    work(earlier, "more")
    assert (earlier / "log").read_text() == "old\nmore\n"


def test_a_generated_name_that_is_taken_meanwhile_moves_on(tmp_path: Path) -> None:
    found = growing_folder(tmp_path / "out", is_ours=is_ours, force=False, moved_on=lambda: tmp_path / "out-2")
    work(tmp_path / "out", "another run's")
    with found.opened(alone=False) as place:
        append_line(place / "log", "ours")
    assert (tmp_path / "out" / "log").read_text() == "another run's\n"
    assert (tmp_path / "out-2" / "log").read_text() == "ours\n"


def test_the_folder_one_is_in_cannot_be_begun_again(earlier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(earlier)
    work(Path("."), "more")
    with pytest.raises(UsageError, match="the folder you are in"):
        work(Path("."), "new", force=True)
    assert (earlier / "log").read_text() == "old\nmore\n"
