"""With --json stdout is one JSON document, whatever happens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from smoothtool import errors
from smoothtool.cli.app import main
from smoothtool.files.pictures.images import save_image
from smoothtool.yaml12 import read_yaml


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Any:
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
    call: Any, arguments: tuple[str, ...], code: str, exit_code: int, words: str
) -> None:
    left, document, err = call(*arguments, "--json")
    assert left == exit_code
    assert document["ok"] is False
    assert document["error"]["code"] == code
    assert document["error"]["exit_code"] == exit_code
    assert words in document["error"]["message"]
    assert words in err


def test_a_hint_goes_along(call: Any) -> None:
    assert call("models", "info", "sd51", "--json")[1]["error"]["hint"]


def test_lists_are_documents(call: Any) -> None:
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


def test_the_settings_inside_a_picture_are_shown(call: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"jobs": [{"command": "edit", "image": "samples:fox", "trg": ["a cät"]}]}
    save_image(Image.new("RGB", (8, 8)), tmp_path / "made.png", settings=settings, parameters=None)
    assert call("info", str(tmp_path / "made.png"), "--json")[1]["settings"] == settings
    with pytest.raises(SystemExit):
        main(["info", str(tmp_path / "made.png")])
    assert read_yaml(capsys.readouterr().out, "stdout").value == settings


def test_a_picture_without_settings_says_so(call: Any, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    code, document, _ = call("info", str(tmp_path / "plain.png"), "--json")
    assert (code, document["error"]["code"]) == (5, "input")
    assert "carries no settings" in document["error"]["message"]
