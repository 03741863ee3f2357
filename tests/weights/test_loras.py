"""LoRAs by name: found in the hub's cache, fetched on request, and the same file ever after."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from huggingface_hub import HfApi
from safetensors.numpy import save_file

from smoothtool.cli.app import main
from smoothtool.commands.shared.loras import lora_files
from smoothtool.errors import ModelError
from smoothtool.recipe.documents import job_document
from smoothtool.weights import settings
from smoothtool.weights.facts import lora_facts
from smoothtool.weights.loras import KNOWN_LORAS, resolve_lora

KNOWN = KNOWN_LORAS["smooth-sd15"]
ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"


def write_lora(path: Path, width: int = 768, value: float = 0.5) -> Path:
    """A LoRA of one layer in the format of the published one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = f"{ATTENTION}.processor.to_k_lora"
    save_file(
        {
            f"{stem}.down.weight": np.full((8, width), value, np.float32),
            f"{stem}.up.weight": np.full((320, 8), value, np.float32),
        },
        path,
    )
    return path


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without settings, and with an empty hub cache."""
    monkeypatch.setattr(settings, "settings_file", lambda: tmp_path / "config" / "settings.yaml")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def published(machine: Path) -> Path:
    """The named LoRA in the layout of the hub's cache."""
    repository = machine / "hub" / "spaces--shi-labs--Smooth-Diffusion"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    return write_lora(repository / "snapshots" / "abc" / KNOWN.file)


def test_a_name_leads_to_the_file_that_was_pulled_whatever_lies_in_the_working_folder(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(machine)
    write_lora(machine / "smooth-sd15")
    with pytest.raises(ModelError, match="not on this machine") as missing:
        resolve_lora("smooth-sd15")
    assert missing.value.hint == "smoothtool models pull smooth-sd15"
    assert resolve_lora("./smooth-sd15").is_file()
    assert published(machine) == resolve_lora("smooth-sd15")


def test_a_mistyped_name_says_which_was_meant() -> None:
    with pytest.raises(ModelError, match="no such LoRA") as caught:
        resolve_lora("smooth-sd51")
    assert caught.value.hint == "did you mean: smooth-sd15"


def test_the_checksum_is_noted_on_first_use_and_another_file_is_refused_later(machine: Path) -> None:
    path = published(machine)
    assert lora_files(["none", "smooth-sd15:0.5"]) == [(path, 0.5)]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert json.loads((machine / "config" / "checksums.json").read_text()) == {"smooth-sd15": digest}
    write_lora(path, value=0.25)
    with pytest.raises(ModelError, match="another file than when it was first used") as caught:
        lora_files(["smooth-sd15"])
    assert "checksums.json" in caught.value.hint


def test_the_format_of_the_published_lora_is_told_from_its_header(machine: Path) -> None:
    facts = lora_facts(write_lora(machine / "x.safetensors"))
    assert facts["architecture"] == "Stable Diffusion 1.x"
    assert facts["format"] == "bare attention processors"
    assert (facts["rank"], facts["layers"], facts["parameters"]) == ("8", 1, 8 * 768 + 320 * 8)
    assert facts["dtype"] == "F32"


def test_a_name_stays_a_name_in_the_recipe_of_a_result(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(machine)
    write_lora(machine / "smooth-sd15")
    write_lora(machine / "own.safetensors")
    lora = job_document("edit", {"lora": ["smooth-sd15:0.5", "own.safetensors:2"]})["jobs"][0]["lora"]
    assert lora == ["smooth-sd15:0.5", f"{machine / 'own.safetensors'}:2"]


@pytest.fixture
def hub(machine: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A hub that announces the file's checksum and hands it out."""
    path = machine / "hub" / "handed-out.safetensors"
    digest = hashlib.sha256(write_lora(path).read_bytes()).hexdigest()
    state = SimpleNamespace(path=path, sha256=digest, asked=[])

    def repo_info(api: HfApi, name: str, **options: Any) -> SimpleNamespace:
        entry = SimpleNamespace(rfilename=KNOWN.file, lfs=SimpleNamespace(sha256=state.sha256))
        return SimpleNamespace(sha="abc", siblings=[entry], card_data={"license": "mit"})

    def download(name: str, file: str, **options: Any) -> str:
        state.asked.append((name, file, options["repo_type"], options.get("revision", "main")))
        return str(path)

    monkeypatch.setattr("huggingface_hub.HfApi.repo_info", repo_info)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    return state


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return int(stopped.value.code or 0), *capsys.readouterr()


def test_pulling_it_prints_its_place_checksum_size_and_licence(
    hub: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "models", "pull", "smooth-sd15")
    assert (code, out) == (0, f"{hub.path}\n")
    assert hub.asked == [(KNOWN.hub_id, KNOWN.file, "space", "main")]
    assert hub.sha256 in err
    assert "licence mit" in err
    assert "--lora smooth-sd15" in err


def test_a_download_that_is_not_what_the_hub_announced_is_refused(
    hub: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.sha256 = "0" * 64
    code, out, err = run(capsys, "models", "pull", "smooth-sd15")
    assert (code, out) == (4, "")
    assert "not the file that the hub announced" in err


def test_models_list_and_info_know_it(machine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "smooth-sd15" in run(capsys, "models", "list")[1]
    assert "models pull smooth-sd15" in run(capsys, "models", "info", "smooth-sd15")[1]
    path = published(machine)
    facts = json.loads(run(capsys, "models", "info", "smooth-sd15", "--json")[1])
    assert facts["place"] == str(path)
    assert facts["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (facts["rank"], facts["architecture"]) == ("8", "Stable Diffusion 1.x")


def test_models_info_says_what_a_model_is(capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads(run(capsys, "models", "info", "stickers", "--json")[1])
    assert facts["parameters"]["UNet"] == 11_159_620
    assert (facts["prediction"], facts["native size"], facts["dtype"]) == ("v_prediction", "64 px", "F16")
    assert facts["files"]
