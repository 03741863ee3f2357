"""YAML as people mean it, and nothing that could run or explode."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import pytest
import yaml

from smoothtool.errors import UsageError
from smoothtool.yaml12 import Dumper, load_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("no", "no"),
        ("off", "off"),
        ("yes", "yes"),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("'5'", "5"),
        ("~", None),
        ("true", True),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("1_000", "1_000"),
        ("2001-01-01", "2001-01-01"),
        ("12:30:45", "12:30:45"),
        ("<<", "<<"),
    ],
)
def test_scalars_are_yaml_1_2(text: str, value: object) -> None:
    read = read_yaml(f"key: {text}", "f").value["key"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    "text", ["1e-4", "no", "010", "0o10", "1_000", "2001-01-01", "a: b", "", "null", "🦊", "-.inf"]
)
def test_text_written_is_text_read_by_both_yaml_versions(text: str) -> None:
    written = yaml.dump({"key": text}, Dumper=Dumper, allow_unicode=True)
    assert read_yaml(written, "f").value == {"key": text}
    assert yaml.safe_load(written) == {"key": text}


def bomb() -> str:
    rows = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    rows += [
        f"{name}: &{name} [{', '.join(['*' + before] * 9)}]"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    ]
    return "\n".join(rows)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (bomb(), "aliases grow without end"),
        ("a: &a [*a]", "aliases grow without end"),
        ("[" * 400_000, "nested too deeply"),
        ("a: !!python/object/apply:os.system [ls]", "f:1:4: the tag"),
        ("a: !mine x", "the tag !mine"),
        ("a: 1\nb: 2\na: 3", "f:3:1 a: is given twice"),
        ("a: [1", "f:1:6"),
        ("a: *nothing", "undefined alias"),
        ("--- 1\n--- 2", "expected a single document in the stream, but found another document"),
        ("a: \x00", "is not YAML"),
    ],
)
def test_what_cannot_be_meant_is_refused_quickly_with_its_place(text: str, what: str) -> None:
    started = time.process_time()  # other work on the machine is not its fault
    with pytest.raises(UsageError, match=what.replace("[", r"\[")):
        read_yaml(text, "f")
    assert time.process_time() - started < 2  # under a second on an idle core


def test_every_duplicate_is_told_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        read_yaml("a: {x: 1, x: 2}\nb: 1\nb: 2", "f")
    assert len(caught.value.what.splitlines()) == 2


def test_aliases_in_measure_are_followed() -> None:
    assert read_yaml("a: &a [1, 2]\nb: *a", "f").value == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize("raw", [b"a: \xff", b"x" * 1_000_001])
def test_files_that_are_no_text_or_too_long_are_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(raw)
    with pytest.raises(UsageError, match=r"r\.yaml"):
        load_yaml(path)


def test_a_missing_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        load_yaml(tmp_path / "missing.yaml")


def test_a_long_plan_is_read_and_other_long_files_are_not(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text("output: out\njobs:\n- command: invert\n" + "  # a comment\n" * 100_000)
    assert path.stat().st_size > 1_000_000
    assert load_yaml(path).value["jobs"] == [{"command": "invert"}]
    path.write_text("x: 1\n" + path.read_text())
    with pytest.raises(UsageError, match="is over 1000 kB"):
        load_yaml(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_recipe_of_any_editor_is_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "r.yaml").write_bytes("src: ein grüner Apfel\r\n".encode(encoding))
    assert load_yaml(tmp_path / "r.yaml").value == {"src": "ein grüner Apfel"}


def test_a_pipe_of_the_shell_is_read_and_any_other_is_not_waited_for(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"a: 1")
    os.close(writing)
    assert load_yaml(Path(f"/dev/fd/{reading}")).value == {"a": 1}
    os.close(reading)
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UsageError, match="this is a pipe"):
        load_yaml(tmp_path / "pipe.yaml")
