"""Files and folders are whole or absent, and nobody's files are lost."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from smoothtool.errors import UsageError
from smoothtool.files import output
from smoothtool.files.output import (
    atomic_path,
    free_space_check,
    new_folder,
    output_folder,
    plain,
    sweep_leftovers,
    write_json_atomic,
    write_text_atomic,
    write_yaml,
)


def earlier_result(folder: Path) -> Path:
    folder.mkdir()
    (folder / "report.json").write_text("{}")
    (folder / "old.png").write_text("old")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_folder_appears_whole_at_the_end(tmp_path: Path) -> None:
    with new_folder(tmp_path / "deep" / "out", force=False) as folder:
        (folder / "a.txt").write_text("a")
        assert not (tmp_path / "deep" / "out").exists()
    assert names(tmp_path / "deep") == ["out"]
    assert names(tmp_path / "deep" / "out") == ["a.txt"]


@pytest.mark.parametrize("interruption", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_interrupted_folder_leaves_nothing(tmp_path: Path, interruption: type[BaseException]) -> None:
    def interrupted() -> None:
        with new_folder(tmp_path / "out", force=False) as folder:
            (folder / "a.txt").write_text("a")
            raise interruption

    with pytest.raises(interruption):
        interrupted()
    assert names(tmp_path) == []


def test_force_replaces_an_earlier_result_at_the_end(tmp_path: Path) -> None:
    with new_folder(earlier_result(tmp_path / "out"), force=True) as folder:
        (folder / "new.png").write_text("new")
        assert (tmp_path / "out" / "old.png").exists()
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["new.png"]


def test_an_interrupted_force_keeps_the_earlier_result(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), new_folder(earlier_result(tmp_path / "out"), force=True):
        raise KeyboardInterrupt
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["old.png", "report.json"]


def test_a_failed_replacement_puts_the_earlier_result_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    renames, true_rename = [], os.rename

    def fail_second(source: Path, target: Path) -> None:
        renames.append(target)
        if len(renames) == 2:
            raise OSError(5, "Input/output error")
        true_rename(source, target)

    monkeypatch.setattr(os, "rename", fail_second)
    with pytest.raises(OSError, match="Input/output"), new_folder(earlier_result(tmp_path / "out"), force=True):
        pass
    assert names(tmp_path) == ["out"]
    assert names(tmp_path / "out") == ["old.png", "report.json"]


def test_a_full_folder_without_force_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"out.*--force"):
        output_folder(earlier_result(tmp_path / "out"), force=False)


def test_force_never_deletes_a_folder_that_is_no_result(tmp_path: Path) -> None:
    (tmp_path / "Pictures").mkdir()
    (tmp_path / "Pictures" / "wedding.jpg").write_text("dear")
    with pytest.raises(UsageError, match=r"Pictures.*report\.json"), new_folder(tmp_path / "Pictures", force=True):
        pass
    assert names(tmp_path / "Pictures") == ["wedding.jpg"]


def test_an_empty_folder_is_filled_without_force(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out", force=False) as folder:
        (folder / "a.txt").write_text("a")
    assert names(tmp_path / "out") == ["a.txt"]


def test_an_empty_folder_that_somebody_is_in_is_filled_and_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    inode = tmp_path.stat().st_ino
    with new_folder(Path("."), force=False) as folder:
        (folder / "report.json").write_text("{}")
        (folder / "frames").mkdir()
    assert names(tmp_path) == ["frames", "report.json"]
    assert Path(".").stat().st_ino == inode
    with pytest.raises(UsageError, match="the folder you are in"), new_folder(Path("."), force=True):
        pass


def test_a_folder_that_another_process_filled_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not empty"), new_folder(tmp_path / "out", force=False):
        earlier_result(tmp_path / "out")
    assert names(tmp_path) == ["out"]
    assert "old.png" in names(tmp_path / "out")


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(earlier_result(tmp_path / "out"), target_is_directory=True)
    with new_folder(tmp_path / "link", force=True) as folder:
        (folder / "a.txt").write_text("a")
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "out") == ["a.txt"]


def test_a_name_of_full_length_works(tmp_path: Path) -> None:
    with new_folder(tmp_path / ("n" * 255), force=False) as folder:
        (folder / "a.txt").write_text("a")
    assert names(tmp_path) == ["n" * 255]


@pytest.mark.parametrize("name", ["n" * 300, "a\0b", "loop"])
def test_a_name_that_no_folder_can_have_is_a_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UsageError):
        output_folder(tmp_path / name, force=False)


def test_an_output_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(UsageError, match="is a file"):
        output_folder(tmp_path / "a.txt" / "out", force=False)


def test_an_output_that_is_a_file_is_refused_even_with_force(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(UsageError, match=r"a\.txt"):
        output_folder(tmp_path / "a.txt", force=True)


def test_a_folder_that_cannot_be_written_is_found_before_the_computation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)  # root may write everywhere
    with pytest.raises(UsageError, match="cannot be written"):
        output_folder(tmp_path / "deep" / "out", force=False)


def test_checking_the_output_creates_nothing(tmp_path: Path) -> None:
    assert output_folder(tmp_path / "deep" / "out", force=False) == tmp_path / "deep" / "out"
    assert names(tmp_path) == []


def test_a_full_disk_is_found_before_the_computation(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    free_space_check(tmp_path / "not" / "there", 1)
    with pytest.raises(UsageError, match="MB"):
        free_space_check(tmp_path / "not" / "there", 2 * free + 10**12)


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")

    def interrupted() -> None:
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_undecodable_bytes_of_a_command_line_can_be_written(tmp_path: Path) -> None:
    write_text_atomic(tmp_path / "a.txt", "fox \udcff")
    assert (tmp_path / "a.txt").read_text() == "fox ?"


def test_json_is_readable_by_every_parser(tmp_path: Path) -> None:
    data = {"a": (math.nan, math.inf, 1.5), "b": Path("x/y"), "c": np.float32(0.5), "d": np.int64(3), 4: True, "e": "é"}
    write_json_atomic(tmp_path / "a.json", data)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    read = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert read == {"a": [None, None, 1.5], "b": "x/y", "c": 0.5, "d": 3, "4": True, "e": "é"}


def test_an_object_is_no_plain_data() -> None:
    with pytest.raises(TypeError, match="object"):
        plain({"a": object()})


TEXTS = [
    "1e-4",
    "0o10",
    "010",
    "no",
    "off",
    "null",
    "~",
    "1_000",
    ".5",
    "a: b",
    "# fox",
    "- x",
    "12:30",
    "é 狐",
    "",
    "a\nb",
]


def test_yaml_keeps_order_and_every_text(tmp_path: Path) -> None:
    write_yaml(tmp_path / "a.yaml", {"z": TEXTS, "a": 1e-5, "n": None, "path": Path("/x")})
    read = yaml.safe_load((tmp_path / "a.yaml").read_text())
    assert list(read) == ["z", "a", "n", "path"]
    assert read == {"z": TEXTS, "a": 1e-5, "n": None, "path": "/x"}


def test_yaml_1_2_reads_the_same_texts(tmp_path: Path) -> None:
    from smoothtool.yaml12 import load_yaml

    write_yaml(tmp_path / "a.yaml", {"z": TEXTS})
    assert load_yaml(tmp_path / "a.yaml").value == {"z": TEXTS}


DAY_S = 24 * 3600


def killed_runs(folder: Path) -> None:
    """What `kill -9` leaves: a folder half filled, and a file half written."""
    (folder / ".0123456789ab.part" / "frames").mkdir(parents=True)
    (folder / ".0123456789ab.part" / "frames" / "000.png").write_text("half")
    (folder / ".ba9876543210.part.json").write_text("{")


@pytest.mark.parametrize(("age_s", "left"), [(DAY_S - 600, 2), (DAY_S + 600, 0)])
def test_a_command_sweeps_up_after_runs_killed_a_day_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age_s: float, left: int
) -> None:
    killed_runs(tmp_path)
    now = time.time()
    monkeypatch.setattr(output.time, "time", lambda: now + age_s)
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
    monkeypatch.setattr(output.time, "time", lambda: now + 2 * DAY_S)
    os.utime(tmp_path / ".0123456789ab.part" / "frames" / "000.png", (now + DAY_S + 600,) * 2)
    sweep_leftovers(tmp_path)
    assert names(tmp_path) == sorted([".0123456789ab.part", *others])


def test_folders_below_are_swept_only_where_they_are_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_runs(tmp_path / "checkpoints")
    now = time.time()
    monkeypatch.setattr(output.time, "time", lambda: now + 2 * DAY_S)
    sweep_leftovers(tmp_path)
    assert len(names(tmp_path / "checkpoints")) == 2
    sweep_leftovers(tmp_path, deep=True)
    assert names(tmp_path / "checkpoints") == []


def test_sweeping_a_folder_that_is_not_there_is_nothing(tmp_path: Path) -> None:
    sweep_leftovers(tmp_path / "none")
