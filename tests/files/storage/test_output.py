"""Folders of results are whole or absent, and nobody's files are lost."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from storage_toys import limited_files

from smoothtool.errors import StorageError, UsageError
from smoothtool.files.storage import output
from smoothtool.files.storage.output import create_folder, free_space_check, new_folder, output_folder, results_folder
from smoothtool.files.storage.writing import write_text_atomic


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
    with pytest.raises(StorageError, match="cannot be written"):
        output_folder(tmp_path / "deep" / "out", force=False)


def test_checking_the_output_creates_nothing(tmp_path: Path) -> None:
    assert output_folder(tmp_path / "deep" / "out", force=False) == tmp_path / "deep" / "out"
    assert names(tmp_path) == []


def test_a_full_disk_is_found_before_the_computation(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    free_space_check(tmp_path / "not" / "there", 1)
    with pytest.raises(StorageError, match="MB"):
        free_space_check(tmp_path / "not" / "there", 2 * free + 10**12)


def test_finished_work_moves_on_when_another_process_took_the_generated_name(tmp_path: Path) -> None:
    def moved_on(finished: Path) -> Path:
        (finished / "name.txt").write_text("out-2")
        return tmp_path / "out-2"

    with new_folder(tmp_path / "out", force=False, moved_on=moved_on) as folder:
        (folder / "a.txt").write_text("a")
        earlier_result(tmp_path / "out")
    assert names(tmp_path) == ["out", "out-2"]
    assert names(tmp_path / "out-2") == ["a.txt", "name.txt"]
    assert "old.png" in names(tmp_path / "out")


def test_a_folder_to_go_on_in_gets_another_generated_name_when_the_first_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert create_folder(tmp_path / "out", lambda: tmp_path / "out-2") == tmp_path / "out-2"
    assert create_folder(tmp_path / "out") == tmp_path / "out"


def test_a_folder_whose_parent_is_closed_is_filled_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path)
    with new_folder(tmp_path / "out", force=False) as folder:
        (folder / "a.txt").write_text("a")
        assert folder.parent == tmp_path / "out"
    assert names(tmp_path / "out") == ["a.txt"]


def test_a_folder_where_a_disk_begins_is_never_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output.os.path, "ismount", lambda path: Path(path) == tmp_path / "out")
    with pytest.raises(UsageError, match="where a disk begins"):
        output_folder(earlier_result(tmp_path / "out"), force=True)
    shutil.rmtree(tmp_path / "out")
    (tmp_path / "out").mkdir()
    with new_folder(tmp_path / "out", force=False) as folder:
        (folder / "a.txt").write_text("a")
    assert names(tmp_path / "out") == ["a.txt"]


def test_folders_that_were_made_for_a_result_go_with_it_when_it_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), new_folder(tmp_path / "deep" / "er" / "out", force=False):
        raise ValueError("no")
    assert names(tmp_path) == []


def test_a_full_disk_is_told_with_the_place_that_was_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(StorageError) as told, new_folder(out, force=False) as folder, limited_files(10):
        write_text_atomic(folder / "report.json", "x" * 100)
    assert told.value.what == f"{out / 'report.json'}: cannot be written (File too large)"
    assert told.value.full


def test_a_disk_that_fails_is_told_with_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*names: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(StorageError, match=r"out: cannot be written \(No space"), new_folder(tmp_path / "out", False):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["loop", "loop/out", "n" * 300, "~nosuchuser/x", "a\0b"])
def test_what_can_be_no_folder_is_refused_in_a_sentence(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    with pytest.raises(UsageError, match="this cannot be a folder") as refused:
        results_folder(Path(name))
    assert "\n" not in refused.value.what
    assert [path.name for path in tmp_path.iterdir()] == ["loop"]


def test_the_root_of_the_disk_is_a_folder_that_is_not_empty() -> None:
    with pytest.raises(UsageError, match="/: the folder is not empty"):
        output_folder(Path("/"), force=False)
