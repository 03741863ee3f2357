"""Journals with lines that nobody here has written: they count as none, and the batch goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from smoothtool.batch.journal import Journal
from smoothtool.errors import InputError
from smoothtool.files.storage.records import read_records
from smoothtool.files.storage.writing import start_log

WHOLE = {"name": "fox", "key": "k", "status": "made", "attempt": 1}


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"\xff\xfe",
        b"[" * 50_000,
        b'{"a":' * 5000,
        json.dumps({**WHOLE, "attempt": "x"}),
        json.dumps({**WHOLE, "attempt": None}),
        json.dumps({**WHOLE, "name": ["fox"]}),
        json.dumps({**WHOLE, "name": "../../etc"}),
        json.dumps({**WHOLE, "name": "/etc"}),
        json.dumps({**WHOLE, "key": {}}),
        json.dumps({**WHOLE, "status": "odd"}),
        json.dumps({**WHOLE, "status": []}),
        json.dumps({**WHOLE, "status": "failed"}),
        json.dumps({**WHOLE, "status": "failed", "error": 3}),
        json.dumps({**WHOLE, "status": "failed", "error": "x", "exit_code": "y"}),
        json.dumps({**WHOLE, "seconds": "long"}),
        json.dumps({**WHOLE, "attempt": 10**30}),
    ],
    ids=lambda line: str(line)[:60],
)
def test_a_line_that_is_no_record_counts_as_none(tmp_path: Path, line: Any) -> None:
    content = line if isinstance(line, bytes) else line.encode()
    good = json.dumps({**WHOLE, "name": "pear"}).encode()
    (tmp_path / "items.jsonl").write_bytes(content + b"\n" + good + b"\n")
    journal = Journal(tmp_path)
    assert set(journal.latest) == {"pear"} or json.loads(content)["attempt"] == 10**30
    journal.append({"name": "fox", "key": "k", "status": "made"})
    assert "fox" in journal.latest


def test_a_pipe_in_the_place_of_a_journal_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "items.jsonl")
    with pytest.raises(InputError, match="is a pipe"):
        Journal(tmp_path)
    with pytest.raises(InputError, match="is a pipe"):
        read_records(tmp_path, "*.jsonl", {})
    with pytest.raises(InputError, match="is a pipe"):
        start_log(tmp_path / "items.jsonl")


def test_records_without_what_is_needed_are_left_out(tmp_path: Path) -> None:
    rows: list[Any] = [{"step": 1, "loss": 0.5}, {"step": "1", "loss": 0.5}, {"step": 2}, [], {"step": 3, "loss": None}]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"step": 4, "lo')
    assert read_records(tmp_path, "log.jsonl", {"step": int, "loss": float}) == [{"step": 1, "loss": 0.5}]
