"""What a batch's folder is cleared of."""

from __future__ import annotations

from pathlib import Path

from smoothtool.files.journal import LOCKS, Journal


def test_half_written_files_and_folders_are_swept_as_soon_as_no_process_is_at_work(tmp_path: Path) -> None:
    (tmp_path / "sub" / ".0123456789ab.part" / "frames").mkdir(parents=True)
    (tmp_path / ".ba9876543210.part.json").write_text("{")
    (tmp_path / LOCKS).mkdir()
    (tmp_path / LOCKS / "of-another-process").touch()
    journal = Journal(tmp_path, "items.jsonl")
    journal.sweep()
    assert len(list(tmp_path.rglob("*.part*"))) == 2
    (tmp_path / LOCKS / "of-another-process").unlink()
    journal.sweep()
    assert list(tmp_path.rglob("*")) == [tmp_path / "sub"]
