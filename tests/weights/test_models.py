"""Names -> places."""

from __future__ import annotations

from pathlib import Path

import pytest

from smoothtool.errors import InputError, ModelError, UsageError
from smoothtool.weights import models as places
from smoothtool.weights import settings
from smoothtool.weights.models import TOKENIZER_ID, find_tokenizer, resolve_model
from smoothtool.weights.sample_pictures import resolve_picture


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with the embedded model, one sample picture, no settings and an empty hub cache."""
    stickers, samples = tmp_path / "stickers", tmp_path / "samples"
    stickers.mkdir()
    samples.mkdir()
    (stickers / "model_index.json").write_text("{}")
    (samples / "fox.png").write_bytes(b"png")
    monkeypatch.setattr(places, "STICKERS", stickers)
    monkeypatch.setattr(places, "STICKERS_LORA", stickers / "smooth.safetensors")
    monkeypatch.setattr("smoothtool.weights.sample_pictures.SAMPLES", samples)
    monkeypatch.setattr(settings, "settings_file", lambda: tmp_path / "settings.yaml")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("SMOOTHTOOL_MODEL", raising=False)
    return tmp_path


def diffusers_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "model_index.json").write_text("{}")
    return path


def hub_copy(machine: Path, hub_id: str) -> Path:
    """A model in the layout of the hub's cache."""
    repository = machine / "hub" / ("models--" + hub_id.replace("/", "--"))
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    return diffusers_folder(repository / "snapshots" / "abc")


def test_auto_is_the_embedded_model_and_says_so() -> None:
    place = resolve_model("auto")
    assert place.name == "stickers"
    assert "photos are outside its world" in place.notice
    assert "smoothtool models pull sd15" in place.notice


def test_asking_for_the_embedded_model_by_name_needs_no_notice() -> None:
    assert resolve_model("stickers").notice == ""


def test_the_lora_beside_the_embedded_model_is_its_default(machine: Path) -> None:
    assert resolve_model("stickers").default_lora is None
    (machine / "stickers" / "smooth.safetensors").write_bytes(b"")
    assert resolve_model("auto").default_lora == machine / "stickers" / "smooth.safetensors"


def test_auto_is_the_users_model_when_it_is_here(machine: Path) -> None:
    (machine / "settings.yaml").write_text("model: sd15\n")
    assert resolve_model("auto").notice.startswith("sd15 is not on this machine; ")
    folder = hub_copy(machine, "stable-diffusion-v1-5/stable-diffusion-v1-5")
    place = resolve_model("auto")
    assert (place.name, place.folder, place.notice) == ("sd15", folder, "")


def test_the_environment_wins_over_the_settings_file(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (machine / "settings.yaml").write_text("model: sd15\n")
    monkeypatch.setenv("SMOOTHTOOL_MODEL", str(diffusers_folder(machine / "mine")))
    assert resolve_model("auto").folder == machine / "mine"


@pytest.mark.parametrize("text", ["[]", "model: [a]", "model: 3"])
def test_settings_that_cannot_be_meant_are_named(machine: Path, text: str) -> None:
    (machine / "settings.yaml").write_text(text)
    with pytest.raises(ModelError, match=r"settings\.yaml"):
        resolve_model("auto")


def test_broken_settings_name_the_line(machine: Path) -> None:
    (machine / "settings.yaml").write_text("model: [")
    with pytest.raises(UsageError, match=r"settings\.yaml:1:"):
        resolve_model("auto")


def test_hub_ids_folders_and_single_files_are_found(machine: Path) -> None:
    assert resolve_model("a/b-c.d" if hub_copy(machine, "a/b-c.d") else "").folder is not None
    assert resolve_model(str(diffusers_folder(machine / "mine"))).folder == machine / "mine"
    (machine / "one.safetensors").write_bytes(b"")
    assert resolve_model(str(machine / "one.safetensors")).single_file == machine / "one.safetensors"


@pytest.mark.parametrize(
    ("name", "what", "hint"),
    [
        ("sd15", "not on this machine", "smoothtool models pull sd15"),
        ("sd16", "no model of that name", "sd"),
        ("some/model", "no such model in the local cache", "smoothtool models pull some/model"),
        ("x.ckpt", "a pickle", ".safetensors"),
        ("X.PT", "a pickle", ".safetensors"),
        (".", "neither a diffusers folder", "smoothtool models list"),
        ("a/b..c", "no model of that name", "smoothtool models list"),
        ("a--b/c", "no model of that name", "smoothtool models list"),
        ("é/ü", "no model of that name", "smoothtool models list"),
        ("n" * 300, "no model of that name", "smoothtool models list"),
        ("a/" + "n" * 200, "no such model in the local cache", "smoothtool models pull"),
        ("~nosuchuser/x", "no model of that name", "smoothtool models list"),
        ("a\0b", "no model of that name", "smoothtool models list"),
    ],
)
def test_a_model_that_is_not_here_is_a_sentence_with_a_way_on(name: str, what: str, hint: str) -> None:
    with pytest.raises(ModelError, match=what) as caught:
        resolve_model(name)
    assert caught.value.hint.startswith(hint) or hint in caught.value.hint


def test_pictures_are_paths_or_samples(machine: Path) -> None:
    assert resolve_picture("samples:fox") == machine / "samples" / "fox.png"
    assert resolve_picture(str(machine / "samples" / "fox.png")).is_file()


def test_an_unknown_sample_names_the_nearest_or_all() -> None:
    with pytest.raises(InputError) as near:
        resolve_picture("samples:fix")
    with pytest.raises(InputError) as far:
        resolve_picture("samples:zzz")
    assert (near.value.hint, far.value.hint) == ("samples:fox", "fox")


@pytest.mark.parametrize(
    ("path", "what"), [("missing.png", "no such file"), (".", "is a folder"), ("/dev/null", "is no regular file")]
)
def test_a_path_without_a_picture_is_refused(path: str, what: str) -> None:
    with pytest.raises(InputError, match=what):
        resolve_picture(path)


def words(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").touch()
    (folder / "merges.txt").touch()
    return folder


def test_a_single_file_takes_the_tokenizer_of_any_known_model_or_of_clip(machine: Path) -> None:
    (machine / "one.safetensors").write_bytes(b"")
    assert resolve_model(str(machine / "one.safetensors")).tokenizer is None
    hub_copy(machine, "CompVis/stable-diffusion-v1-4")  # here without its tokenizer
    own = words(hub_copy(machine, TOKENIZER_ID))
    assert find_tokenizer() == own
    known = words(hub_copy(machine, "prompthero/openjourney-v4") / "tokenizer")
    assert resolve_model(str(machine / "one.safetensors")).tokenizer == known


def test_unnamed_results_go_where_the_user_says(machine: Path) -> None:
    assert settings.results_root() == Path("smoothtool-out")
    (machine / "settings.yaml").write_text("output: ~/films\n")
    assert settings.results_root() == Path.home() / "films"


@pytest.mark.parametrize("line", ["output: 3", "output: ''", "model: [sd15]", "output: null"])
def test_a_setting_that_is_no_text_is_refused(machine: Path, line: str) -> None:
    (machine / "settings.yaml").write_text(f"{line}\n")
    with pytest.raises(ModelError, match="is not a text"):
        settings.user_settings()
