"""Every command that the README names is one that runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smoothtool.cli.app import app
from smoothtool.weights.sample_pictures import SAMPLES

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


def test_the_shell_pipeline_works(tmp_path: Path) -> None:
    (line,) = [line for line in README.read_text("utf-8").splitlines() if "| smoothtool" in line]
    for name in ("photos/a.jpg", "photos/b/two words.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((SAMPLES / "fox.png").read_bytes())
    command = line.replace("| smoothtool", f"| {shlex.quote(sys.executable)} -m smoothtool") + " --dry-run"
    found = subprocess.run(command, shell=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(README.parent)},
                           capture_output=True, text=True, check=True)  # fmt: skip
    assert "2 edit: about" in found.stderr
    assert "output: b/two words" in found.stdout
