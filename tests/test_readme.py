"""What the README says, done as it stands: every shell block and both Python blocks, at a fraction of their cost."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cli_toys import call_main

from smoothtool.errors import SmoothtoolError
from smoothtool.weights import settings
from smoothtool.weights.loras import KNOWN_LORAS
from smoothtool.weights.models import KNOWN, STICKERS
from smoothtool.weights.sample_pictures import SAMPLES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
SHELL = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
PYTHON = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
NOT_RUN = ("pip install", "ruff check")
"""Lines that install, or run this very suite."""
CHEAPER = {
    " -n 9": " -n 1",
    " -n 800": " -n 1 -b 1",
    " -n 30": " -n 1 --frames 3",
}
"""What is made smaller besides the steps, which the settings file turns down."""


@pytest.fixture
def newcomer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with photos, on a machine whose Stable Diffusion 1.5 and smooth-sd15 are the embedded model's.

    Two steps by default.
    """
    (tmp_path / "settings.yaml").write_text("steps: 2\n")
    monkeypatch.setattr(settings, "settings_file", lambda: tmp_path / "settings.yaml")
    monkeypatch.setenv("SMOOTHTOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SMOOTHTOOL_MODEL", raising=False)
    hub = tmp_path / "hub" / ("models--" + KNOWN["sd15"].hub_id.replace("/", "--"))
    (hub / "refs").mkdir(parents=True)
    (hub / "refs" / "main").write_text("abc")
    (hub / "snapshots").mkdir()
    (hub / "snapshots" / "abc").symlink_to(STICKERS)
    paper = KNOWN_LORAS["smooth-sd15"]
    space = tmp_path / "hub" / ("spaces--" + paper.hub_id.replace("/", "--"))
    file = space / "snapshots" / "abc" / paper.file
    for folder in (space / "refs", file.parent):
        folder.mkdir(parents=True)
    (space / "refs" / "main").write_text("abc")
    file.symlink_to(STICKERS / "smooth.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    here = tmp_path / "here"
    (here / "photos" / "b").mkdir(parents=True)
    (here / "recipes").symlink_to(ROOT / "recipes")
    for place in ("a.jpg", "b.jpg", "photos/a.jpg", "photos/b/two words.jpg"):
        (here / place).write_bytes((SAMPLES / "fox.png").read_bytes())
        (here / place).with_suffix(".txt").write_text("a 3d fox")
    monkeypatch.chdir(here)
    return here


def lines_of(block: str) -> list[str]:
    return [line for line in block.splitlines() if not line.startswith(NOT_RUN)]


@pytest.mark.parametrize("block", [b for b in SHELL if lines_of(b)], ids=lambda block: lines_of(block)[0][:50])
def test_a_shell_block_runs_as_it_stands(block: str, newcomer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for line in lines_of(block):
        if "|" in line:
            continue
        for dear, cheap in CHEAPER.items():
            line = line.replace(dear, cheap)
        code, _, err = call_main(capsys, *shlex.split(line)[1:])
        assert code == 0, f"{line}\n{err}"


def test_the_shell_pipeline_works(newcomer: Path) -> None:
    (line,) = [line for block in SHELL for line in lines_of(block) if "| smoothtool" in line]
    command = line.replace("| smoothtool", f"| {shlex.quote(sys.executable)} -m smoothtool") + " --dry-run"
    found = subprocess.run(
        command, shell=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True
    )
    assert "2 edit: about" in found.stderr
    assert "output: b/two words" in found.stdout


def test_the_python_blocks_run_one_after_the_other(newcomer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(PYTHON) == 2
    told: dict[str, object] = {}
    for block in PYTHON:
        exec(compile(block, "README.md", "exec"), told)
    assert (newcomer / "half-way.png").is_file()
    assert len(capsys.readouterr().out.splitlines()) >= 11


def test_the_readme_is_short_and_its_links_lead_somewhere() -> None:
    assert len(README.encode()) < 9_000
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert len(links) >= 5
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_settings_that_the_readme_names_are_the_ones_there_are() -> None:
    assert all(f"`{key}`" in README or f"`{key}:" in README for key in settings.SETTINGS)


def test_the_help_ends_with_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    out = " ".join(call_main(capsys, "--help")[1].split())
    classes = [SmoothtoolError, *SmoothtoolError.__subclasses__()]
    assert all(f"{kind.exit_code} " in out[out.index("Exit codes") :] for kind in classes)
