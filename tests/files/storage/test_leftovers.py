"""What killed runs leave is swept by the next one, and what a living run is making stays."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from storage_toys import names

from smoothtool.files.storage import leftovers
from smoothtool.files.storage.leftovers import HOST, sweep_leftovers, temporary_file, temporary_folder
from smoothtool.files.storage.output import new_folder

OTHER = "0123" if HOST != "0123" else "4567"
DAY_S = 24 * 3600


def killed_runs(folder: Path) -> None:
    """What `kill -9` leaves: a folder half filled, and a file half written."""
    (folder / f".{OTHER}456789ab.part" / "frames").mkdir(parents=True)
    (folder / f".{OTHER}456789ab.part" / "frames" / "000.png").write_text("half")
    (folder / f".{OTHER}76543210.part.json").write_text("{")


@pytest.mark.parametrize(("age_s", "left"), [(DAY_S - 600, 2), (DAY_S + 600, 0)])
def test_a_command_sweeps_up_after_runs_killed_a_day_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age_s: float, left: int
) -> None:
    killed_runs(tmp_path)
    now = time.time()
    monkeypatch.setattr(leftovers.time, "time", lambda: now + age_s)
    with new_folder(tmp_path / "out", force=False):
        assert len(list(tmp_path.glob(".*"))) == left + 1


def test_sweeping_leaves_what_is_not_ours_and_what_still_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_runs(tmp_path)
    others = ["a.part", ".a.part", ".0123456789ab.partial", "0123456789ab.part", ".0123456789ab.part.tar.gz"]
    for name in others:
        (tmp_path / name).write_text("someone's")
    now = time.time()
    monkeypatch.setattr(leftovers.time, "time", lambda: now + 2 * DAY_S)
    os.utime(tmp_path / f".{OTHER}456789ab.part" / "frames" / "000.png", (now + DAY_S + 600,) * 2)
    sweep_leftovers(tmp_path)
    assert names(tmp_path) == sorted([f".{OTHER}456789ab.part", *others])


def test_folders_below_are_swept_only_where_they_are_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_runs(tmp_path / "checkpoints")
    now = time.time()
    monkeypatch.setattr(leftovers.time, "time", lambda: now + 2 * DAY_S)
    sweep_leftovers(tmp_path)
    assert len(names(tmp_path / "checkpoints")) == 2
    sweep_leftovers(tmp_path, deep=True)
    assert names(tmp_path / "checkpoints") == []


def test_sweeping_a_folder_that_is_not_there_is_nothing(tmp_path: Path) -> None:
    sweep_leftovers(tmp_path / "none")


def test_what_a_process_of_this_machine_left_is_swept_at_once(tmp_path: Path) -> None:
    (tmp_path / f".{HOST}456789ab.part" / "frames").mkdir(parents=True)
    (tmp_path / f".{HOST}76543210.part.json").write_text("{")
    sweep_leftovers(tmp_path)
    assert names(tmp_path) == []


def test_what_a_living_process_makes_is_not_swept(tmp_path: Path) -> None:
    with temporary_folder(tmp_path / "out") as folder, temporary_file(tmp_path / "a.json") as file:
        code = "import pathlib, sys; from smoothtool.files.storage.leftovers import sweep_leftovers as sweep; "
        subprocess.run([sys.executable, "-c", code + "sweep(pathlib.Path(sys.argv[1]))", str(tmp_path)], check=True)
        assert folder.is_dir()
        assert file.is_file()
    assert names(tmp_path) == []


def test_a_name_that_is_swept_before_it_is_held_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, true_mkdir = [], Path.mkdir

    def mkdir(path: Path, *arguments: object, **options: object) -> None:
        true_mkdir(path, *arguments, **options)
        if not made and path.name.endswith(".part"):
            made.append(path)
            path.rmdir()

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with temporary_folder(tmp_path / "out") as folder:
        assert folder.is_dir()
        assert folder not in made


def test_a_link_of_such_a_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "dear").mkdir()
    (tmp_path / f".{HOST}456789ab.part").symlink_to(tmp_path / "dear")
    sweep_leftovers(tmp_path)
    assert "dear" in names(tmp_path)
    assert os.path.lexists(tmp_path / f".{HOST}456789ab.part")
