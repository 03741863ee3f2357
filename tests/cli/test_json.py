"""With --json stdout is one JSON document, whatever happens."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.main import get_command

from smoothtool import errors
from smoothtool.cli.app import app, main
from smoothtool.files.pictures.images import save_image
from smoothtool.yaml12 import read_yaml

Call = Callable[..., tuple[int, dict[str, Any], str]]
"""What a command line gives: its exit code, its document and what it says on stderr."""


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def run(*arguments: str) -> tuple[int, dict[str, Any], str]:
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), json.loads(out), err

    return run


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code", "words"),
    [
        (("edit", "samples:fox", "--steps", "0", "--trg", "a cat"), "usage", 2, "--steps is 0"),
        (("edit", "samples:fox", "--nonsense"), "usage", 2, "--nonsense"),
        (("invert", "samples:wolf"), "input", 5, "samples:wolf"),
        (("models", "info", "sd51"), "model", 4, "sd51"),
    ],
)
def test_an_error_is_a_document_with_its_code(
    call: Call, arguments: tuple[str, ...], code: str, exit_code: int, words: str
) -> None:
    left, document, err = call(*arguments, "--json")
    assert left == exit_code
    assert document["ok"] is False
    assert document["error"]["code"] == code
    assert document["error"]["exit_code"] == exit_code
    assert words in document["error"]["message"]
    assert words in err


def test_a_hint_goes_along(call: Call) -> None:
    assert call("models", "info", "sd51", "--json")[1]["error"]["hint"]


def test_lists_are_documents(call: Call) -> None:
    _, models, _ = call("models", "list", "--json")
    assert models["ok"] is True
    assert models["models"][0] == {
        "name": "stickers",
        "here": "yes",
        "size": "embedded",
        "licence": "Apache-2.0",
        "what": "embedded; icons of animals, food, things",
    }
    assert {"name", "about"} == set(call("recipe", "ls", "--json")[1]["recipes"][0])
    assert call("models", "info", "stickers", "--json")[1]["name"] == "stickers"


def test_every_kind_of_error_has_a_code_of_its_own() -> None:
    kinds = [errors.SmoothtoolError, *errors.SmoothtoolError.__subclasses__()]
    assert len({kind.code for kind in kinds}) == len(kinds)
    assert len({kind.exit_code for kind in kinds}) == len(kinds)


def test_the_settings_inside_a_picture_are_shown(
    call: Call, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"jobs": [{"command": "edit", "image": "samples:fox", "trg": ["a cät"]}]}
    save_image(Image.new("RGB", (8, 8)), tmp_path / "made.png", settings=settings, parameters=None)
    assert call("info", str(tmp_path / "made.png"), "--json")[1]["settings"] == settings
    with pytest.raises(SystemExit):
        main(["info", str(tmp_path / "made.png")])
    assert read_yaml(capsys.readouterr().out, "stdout").value == settings


def test_a_picture_without_settings_says_so(call: Call, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    code, document, _ = call("info", str(tmp_path / "plain.png"), "--json")
    assert (code, document["error"]["code"]) == (5, "input")
    assert "carries no settings" in document["error"]["message"]
    assert "samples:fox: carries no settings" in call("info", "samples:fox", "--json")[1]["error"]["message"]


def commands(group: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    for own, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name}{own} ")
        else:
            yield f"{name}{own}", command


def test_every_command_takes_json_but_a_server_and_what_is_json_anyway() -> None:
    without = {
        name for name, command in commands(get_command(app)) if not any("--json" in one.opts for one in command.params)
    }
    assert without == {"ui", "recipe schema"}


def test_recipes_and_plans_are_documents(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("jobs: [{command: invert, image: 'samples:fox', matrix: {steps: [10, 20]}}]", "utf-8")
    assert call("recipe", "validate", "a.yaml", "--json")[1] == {"ok": True, "file": "a.yaml", "jobs": 2}
    for shown in (("recipe", "show", "a.yaml"), ("run", "a.yaml", "--dry-run")):
        document = call(*shown, "--json")[1]
        assert [job["steps"] for job in document["jobs"]] == [10, 20]
        assert document["unet_calls"] == 30 * 13
        assert document["peak_memory_bytes"]
        assert "guidance 3.0: the default of the model stickers" in document["origins"]
    assert call("invert", "samples:fox", "--dry-run", "--json")[1]["jobs"][0]["image"] == "samples:fox"
    assert call("recipe", "cp", "drag-list", "--json")[1] == {"ok": True, "files": ["drag-list.yaml", "drags.jsonl"]}
    left, document, _ = call("recipe", "validate", "b.yaml", "--json")
    assert (left, document["error"]["code"]) == (2, "usage")


def test_a_run_of_a_recipe_ends_in_its_report_or_batch(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SMOOTHTOOL_CACHE", str(tmp_path / "cache"))
    small = "command: invert, image: 'samples:fox', steps: 1, inversion: ddim, size: 16"
    Path("one.yaml").write_text(f"jobs: [{{{small}}}]", "utf-8")
    assert call("run", "one.yaml", "--json")[1]["command"] == "invert"
    Path("two.yaml").write_text(f"jobs: [{{{small}, matrix: {{seed: [1, 2]}}}}]", "utf-8")
    assert call("run", "two.yaml", "--json")[1]["ok"] is True


def test_what_the_caches_hold_is_a_document(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMOOTHTOOL_CACHE", str(tmp_path))
    (tmp_path / "identity").mkdir()
    (tmp_path / "identity" / "a.safetensors").write_bytes(b"12345")
    listed = call("cache", "list", "identity", "--json")[1]["cache"]["identity"]
    assert listed["folder"] == str(tmp_path / "identity")
    assert [(entry["name"], entry["size_bytes"]) for entry in listed["entries"]] == [("a", 5)]
    assert call("cache", "clear", "--json")[1]["deleted"] == {"inversions": 0, "identity": 1, "training": 0}
