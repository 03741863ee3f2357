"""--quiet hides what one can do without, and nothing else."""

from __future__ import annotations

import pytest

from smoothtool.cli import console


def test_an_address_to_open_is_told_even_then_and_a_note_is_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console.show, "quiet", True)
    with console.Progress() as progress:
        progress.note("a model was chosen")
        progress.tell("open http://127.0.0.1:1/")
    assert capsys.readouterr().err == "open http://127.0.0.1:1/\n"
