"""Every command that the README names is one that runs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smoothtool.cli.app import app
from smoothtool.weights.places import SAMPLES

README = Path(__file__).parents[1] / "README.md"
COMMANDS = sorted(set(re.findall(r"`(smoothtool (?:interpolate|invert|edit|drag|istd) [^`]*)`", README.read_text())))


def test_the_readme_names_commands() -> None:
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("command", COMMANDS)
def test_a_readme_command_has_a_plan(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "b.jpg", "m.png"):
        (tmp_path / name).write_bytes((SAMPLES / "fox.png").read_bytes())
    (tmp_path / "prompts.txt").write_text("a cat\n")
    result = CliRunner().invoke(app, [*shlex.split(command)[1:], "--dry-run"])
    assert result.exit_code == 0, result.output
