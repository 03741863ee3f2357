"""What a batch's folder is cleared of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from smoothtool.batch.journal import LOCKS, Journal


def test_half_written_files_and_folders_are_swept_as_soon_as_no_process_is_at_work(tmp_path: Path) -> None:
    (tmp_path / "sub" / ".0123456789ab.part" / "frames").mkdir(parents=True)
    (tmp_path / ".ba9876543210.part.json").write_text("{")
    (tmp_path / LOCKS).mkdir()
    (tmp_path / LOCKS / "of-one-that-died").touch()
    journal = Journal(tmp_path, "items.jsonl")
    with FileLock(tmp_path / LOCKS / "of-another-process"):
        journal.sweep()
        assert len(list(tmp_path.rglob("*.part*"))) == 2
    journal.sweep()
    assert list(tmp_path.rglob("*")) == [tmp_path / "sub"]


def test_of_two_records_the_later_counts_whatever_their_files_are_called(tmp_path: Path) -> None:
    Journal(tmp_path, "items.jsonl").append({"name": "a", "key": "k", "status": "failed"})
    Journal(tmp_path, "items-ray-1.jsonl").append({"name": "a", "key": "k", "status": "made"})
    assert Journal(tmp_path).latest["a"]["status"] == "made"


def test_lines_of_something_else_are_no_records(tmp_path: Path) -> None:
    lines = ["[1]", "3", '{"name": "a"}', '{"name": ["a"], "key": "k", "status": "made", "attempt": 1}', '{"name": "b']
    (tmp_path / "items.jsonl").write_text("\n".join(lines) + "\n")
    assert Journal(tmp_path).latest == {}


def test_a_claim_outlives_that_another_process_sweeps_its_folder_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeps, acquire = [1, 1], FileLock.acquire

    def late(lock: FileLock, **how: Any) -> object:
        if sweeps:
            sweeps.pop()
            (tmp_path / LOCKS).rmdir()
            raise FileNotFoundError(lock.lock_file)
        return acquire(lock, **how)

    monkeypatch.setattr(FileLock, "acquire", late)
    with Journal(tmp_path).claim("a") as mine:
        assert mine
        assert len(list((tmp_path / LOCKS).iterdir())) == 1
    assert not sweeps


def test_a_folder_that_is_gone_for_good_is_told(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    journal = Journal(tmp_path / "out")
    (tmp_path / "out").rmdir()
    with pytest.raises(FileNotFoundError), journal.claim("a"):
        pass
