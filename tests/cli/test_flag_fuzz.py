"""Four hundred command lines that nobody would write: each is a plan or a mistake in a sentence, no internal error."""

from __future__ import annotations

import io
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from pydantic.fields import FieldInfo

from smoothtool.cli import app, console
from smoothtool.files.pictures.images import save_image
from smoothtool.jobs import JOBS, Job, fields_of
from smoothtool.jobs.options import choices_of, flag_of, kind_of, label_of

LINES = 400
PARTS = 4
"""The lines are divided among as many tests, which can run beside each other."""
TEXTS = (
    "",
    " ",
    "a fox",
    "-",
    "--",
    "-x",
    "=",
    ":",
    "::",
    "a:b:c",
    "[",
    "]*[",
    "{x}",
    "%s",
    "*",
    "**",
    "?",
    "../no",
    "/no",
    "~nosuchuser/x",
    "x" * 300,
    "日" * 100,
    "\x1b[31m",
    "a\nb",
    "a\u2028b",
    "\udcff",
    "C:\\x",
    "https://a/b",
    "samples:fox",
    "samples:*",
    "samples:",
    "samples:x",
    "none",
    "null",
    "true",
    "nan",
    "inf",
    "-inf",
    "1e999",
    "-1",
    "0",
    "1",
    "0.5",
    "3",
    "512",
    "64x64",
    "0x0",
    "1/4",
    "4/1",
    "9" * 400,
    "1_000",
    "0x10",
    "1e-4",
    "20,32:40,32",
    "nan,1:2,3",
    "fox=2",
    "fox=",
    "(red:1.4)",
    "<lora:a:1>",
    "loop",
    "loop/x.png",
    "pipe.png",
    "endless.png",
    "dir",
    "dir/*",
    "dir/x.png",
    "note.txt",
    "r.yaml",
    "bad.yaml",
    "no.safetensors",
)
MEANT = {
    "invert": ("samples:fox",),
    "edit": ("samples:fox", "--trg", "a cat"),
    "drag": ("dir/x.png", "--point", "2,2:5,5"),
    "interpolate": ("samples:fox", "samples:cat"),
    "eval": ("recon", "dir", "dir"),
    "train": ("dir",),
    "bench": ("pie", "dir"),
}
"""What most of the lines begin with, to get past the first mistake."""
BAD = "jobs: [{command: edit, image: [1, {a: 2}], trg: ~, matrix: {steps: [x]}, output: '{no}'}]"
CHANGED = ("steps", "image", "output", "src", "lora", "x", "")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files that the lines name, some of them traps."""
    (tmp_path / "dir").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "dir" / "x.png")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    (tmp_path / "note.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "no.safetensors").write_bytes(b"\x80" * 20)
    (tmp_path / "r.yaml").write_text("jobs: [{command: invert, image: dir, captions: sidecars}]")
    (tmp_path / "bad.yaml").write_text(BAD)
    hostile = {"jobs": [{"command": "drag", "output": "/x"}]}
    save_image(Image.new("RGB", (8, 8)), tmp_path / "made.png", settings=hostile, parameters=None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(console, "show", console.Show())
    monkeypatch.setattr(app, "get_command", cache(app.get_command))  # built once, not once a line
    monkeypatch.setattr("signal.signal", lambda *arguments: None)
    return tmp_path


def command_lines(seed: int) -> Iterator[list[str]]:
    rng = random.Random(seed)
    for _ in range(LINES // PARTS):
        if rng.random() < 0.15:
            recipe = rng.choice(["r.yaml", "bad.yaml", "made.png", *TEXTS[5:]])
            changes = [f"{rng.choice(CHANGED)}={rng.choice(TEXTS)}" for _ in range(rng.randrange(3))]
            yield ["run", recipe, *changes, "--dry-run"]
        else:
            yield list(job_line(rng, rng.choice([*JOBS.values()])))


def job_line(rng: random.Random, model: type[Job]) -> Iterator[str]:
    is_meant = rng.random() < 0.7
    yield from (model.command, *(MEANT.get(model.command, ()) if is_meant else ()), "--dry-run")
    for name, field in fields_of(model):
        if flag_of(field).positional:
            yield from (value(rng, field) for _ in range(0 if is_meant else rng.randrange(3)))
        elif rng.random() < (0.03 if is_meant else 0.15):
            label = flag_of(field).short if flag_of(field).short and rng.random() < 0.3 else label_of(name, field)
            yield label if rng.random() < 0.97 else label[:-1]
            if kind_of(field) is not bool:
                yield value(rng, field)


def value(rng: random.Random, field: FieldInfo) -> str:
    """Now and then one that could be meant."""
    choices = choices_of(field)
    return rng.choice(choices) if choices and rng.random() < 0.6 else rng.choice(TEXTS)


def call(monkeypatch: pytest.MonkeyPatch, line: list[str]) -> tuple[int, str]:
    """(exit code, stderr), which may hold bytes that are no text."""
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"dir/x.png\n")))
    said = io.BytesIO()
    for name, raw in (("stdout", io.BytesIO()), ("stderr", said)):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(raw, encoding="utf-8", write_through=True))
    with pytest.raises(SystemExit) as left:
        app.main(line)
    return int(left.value.code or 0), said.getvalue().decode(errors="replace")


@pytest.mark.parametrize("part", range(PARTS))
def test_no_command_line_is_an_internal_error(place: Path, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before, codes = sorted(place.rglob("*")), Counter[int]()
    for line in command_lines(part):
        code, said = call(monkeypatch, line)
        codes[code] += 1
        assert code in (0, 2, 4, 5), repr((line, code, said))
        assert "Traceback" not in said, (line, said)
        assert code == 0 or said.strip(), line
    assert codes[0] > 5
    assert codes[2] > 20
    assert sorted(place.rglob("*")) == before
