"""Every command on a tiny random Stable Diffusion XL, by the same flags as on any other model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from toys import tiny_clip, tiny_xl_model

from smoothtool.commands.drag import run as drag
from smoothtool.commands.edit import run as edit
from smoothtool.commands.interpolate import run as interpolate
from smoothtool.commands.invert import run as invert
from smoothtool.commands.istd import run as istd
from smoothtool.commands.tables import run as tables
from smoothtool.commands.train import run as train
from smoothtool.diffusion.loading import load_model
from smoothtool.diffusion.lora import load_lora
from smoothtool.diffusion.saving import save_model
from smoothtool.errors import UsageError
from smoothtool.files.storage.inversions import load_inversion
from smoothtool.files.storage.writing import write_json_atomic
from smoothtool.jobs import INVERSION_NAMES, MORPH_NAMES, make_job
from smoothtool.jobs.edit import EditName
from smoothtool.types import Report, silent

COMMANDS = {
    "drag": drag,
    "edit": edit,
    "interpolate": interpolate,
    "invert": invert,
    "istd": istd,
    "tables": tables,
    "train": train,
}
STEPS = 4


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as a folder, a CLIP, and a captioned picture of 40 x 24 pixels and another."""
    place = tmp_path_factory.mktemp("xl")
    save_model(tiny_xl_model(place / "tokenizer"), place / "model", write_json_atomic)
    tiny_clip(place / "clip")
    (place / "data").mkdir()
    for index, caption in enumerate(("a red cat", "a dog")):
        levels = np.random.default_rng(index).integers(0, 256, (24, 40, 3), dtype=np.uint8)
        Image.fromarray(levels).save(place / "data" / f"{index}.png")
        (place / "data" / f"{index}.txt").write_text(caption)
    (place / "prompts.txt").write_text("a cat\n")
    return place


@pytest.fixture
def go(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Report]:
    """Run a command on the model and the first picture: `go("edit", method="p2p")`."""
    monkeypatch.setenv("SMOOTHTOOL_CACHE", str(tmp_path / "cache"))
    picture = str(place / "data" / "0.png")
    given: dict[str, dict[str, Any]] = {
        "drag": {
            "image": picture,
            "src": "a red cat",
            "point": ["8,12:30,12"],
            "method": "dragdiffusion",
            "iterations": 2,
            "lora_steps": 1,
        },
        "edit": {"image": picture, "src": "a red cat", "trg": "a red dog", "clip": str(place / "clip")},
        "interpolate": {"images": [picture, str(place / "data" / "1.png")], "frames": 3, "src": ["a red cat", "a dog"]},
        "invert": {"image": picture, "src": "a red cat"},
        "istd": {"prompts": str(place / "prompts.txt"), "n": 1, "frames": 3},
        "tables": {
            "data": str(place / "data"),
            "prompts": str(place / "prompts.txt"),
            "n": 1,
            "pictures": 2,
            "pairs": 1,
            "inverted": 1,
            "train_steps": 0,
            "clip": str(place / "clip"),
        },
        "train": {
            "data": str(place / "data"),
            "max_steps": 2,
            "batch_size": 2,
            "rank": 2,
            "learning_rate": 1e-2,
            "prompt_dropout": 0.5,
            "crop": "buckets",
        },
    }
    count = iter(range(100))

    def run(command: str, **settings: Any) -> Report:
        common = {
            "model": str(place / "model"),
            "steps": STEPS,
            "guidance": 3,
            "seed": 1,
            "device": "cpu",
            "output": tmp_path / f"out-{next(count)}",
        }
        return COMMANDS[command].run(make_job(command, {**common, **given[command], **settings}), silent)

    return run


@pytest.mark.parametrize("inversion", INVERSION_NAMES)
def test_every_inversion_gives_the_picture_back(go: Callable[..., Report], inversion: str) -> None:
    report = go("invert", inversion=inversion)
    assert Image.open(report.folder / "reconstruction.png").size == (40, 24)
    kept, _ = load_inversion(report.folder / "inversion.safetensors")
    assert kept.reconstruction.isfinite().all()
    if inversion in ("npi", "edict", "belm"):  # the source stands in for the null whole, or guidance would not cancel
        assert kept.null_pooled is not None
        assert torch.allclose(kept.reconstruction, kept.sampled[-1])


def test_negative_prompt_inversion_follows_the_unguided_path(go: Callable[..., Report]) -> None:
    report = go("invert", inversion="npi", guidance=7.5)
    kept, _ = load_inversion(report.folder / "inversion.safetensors")
    edited = go(
        "edit",
        image=str(report.folder / "inversion.safetensors"),
        trg="a red cat",
        ratio="1",
        inversion="npi",
        guidance=7.5,
    )
    same = np.asarray(Image.open(edited.folder / "edited.png")).astype(int)
    given = np.asarray(Image.open(report.folder / "reconstruction.png")).astype(int)
    assert np.abs(same - given).max() <= 1
    assert kept.method == "npi"


@pytest.mark.parametrize("method", get_args(EditName))
def test_every_method_edits(go: Callable[..., Report], method: str) -> None:
    report = go("edit", method=method)
    assert Image.open(report.folder / "edited.png").size == (40, 24)
    assert report.figures["edits"][0]["unet_calls"] > 0


def test_words_blend_where_the_first_tokenizer_finds_them(go: Callable[..., Report]) -> None:
    blended = go("edit", method="p2p", blend=["cat", "dog"], reweight=["dog=2"])
    assert (blended.folder / "edited.png").is_file()


@pytest.mark.parametrize("method", MORPH_NAMES)
def test_every_path_leads_from_one_picture_to_the_other(go: Callable[..., Report], method: str) -> None:
    learned = {"lora_steps": 1} if method == "diffmorpher" else {}
    assert len(go("interpolate", method=method, steps=8, **learned).files["frames"]) == 5


@pytest.mark.parametrize("method", ["dragdiffusion", "gooddrag", "fastdrag"])
def test_every_way_of_dragging_leaves_a_picture(go: Callable[..., Report], place: Path, method: str) -> None:
    mask = Image.new("L", (40, 24), 255)
    mask.paste(0, (0, 0, 4, 24))
    mask.save(place / "mask.png")
    report = go("drag", method=method, mask=str(place / "mask.png"))
    assert Image.open(report.folder / "dragged.png").size == (40, 24)


def test_a_picture_made_from_a_prompt_is_dragged_under_guidance(go: Callable[..., Report]) -> None:
    report = go("drag", image=None, prompt="a red cat", src="", negative="blue")
    assert Image.open(report.folder / "dragged.png").size == (32, 32)


def test_a_lora_is_trained_and_changes_what_the_model_predicts(go: Callable[..., Report], place: Path) -> None:
    report = go("train")
    model = load_model(place / "model", "xl", device="cpu")
    latents, text = torch.ones(1, 4, 16, 16), model.encode_prompts(["a cat"])
    before = model.predict_noise(latents, 500, text)
    info = load_lora(model, report.folder / report.files["lora"])
    assert info["layers"] > 0
    assert float((model.predict_noise(latents, 500, text) - before).abs().max()) > 0


def test_walks_are_measured_and_tabled(go: Callable[..., Report], monkeypatch: pytest.MonkeyPatch) -> None:
    assert go("istd").figures["istd"]["mean"] > 0
    monkeypatch.setattr("smoothtool.commands.tables.measurements.SEQUENCE_FRAMES", 3)
    report = go("tables", steps=4)
    assert (report.folder / "tables.md").is_file()


def test_a_negative_prompt_is_recorded_and_changes_the_result(go: Callable[..., Report]) -> None:
    plain, led = go("edit", method="sdedit"), go("edit", method="sdedit", negative="a blue fox")
    pictures = [Image.open(report.folder / "edited.png") for report in (plain, led)]
    assert np.asarray(pictures[0]).tolist() != np.asarray(pictures[1]).tolist()
    assert "Negative prompt: a blue fox" in pictures[1].info["parameters"]
    assert "Negative prompt" not in pictures[0].info["parameters"]
    assert json.loads((led.folder / "report.json").read_text())["job"]["negative"] == "a blue fox"


def test_null_text_inversion_starts_from_the_negative_prompt(go: Callable[..., Report]) -> None:
    plain, led = (go("invert", solver="adam", inner_steps=0, negative=text) for text in ("", "a blue fox"))
    nulls = [load_inversion(report.folder / "inversion.safetensors")[0].null_embeds for report in (plain, led)]
    assert not nulls[0].any()  # SDXL's own null embedding
    assert nulls[1].any()


def test_an_inversion_file_belongs_to_its_negative_prompt(go: Callable[..., Report]) -> None:
    file = go("invert", negative="a blue fox").folder / "inversion.safetensors"
    with pytest.raises(UsageError, match="made with the negative prompt 'a blue fox'"):
        go("edit", image=str(file))
    assert (go("edit", image=str(file), negative="a blue fox").folder / "edited.png").is_file()


def test_gauss_newton_leaves_the_zero_it_starts_from(go: Callable[..., Report]) -> None:
    kept, _ = load_inversion(go("invert", solver="gauss-newton").folder / "inversion.safetensors")
    assert kept.null_embeds.any()
    assert kept.null_embeds.isfinite().all()


@pytest.mark.parametrize(("size", "noted"), [("16", "16x10 px"), ("64x64", "64x64 px"), ("32x24", None), (None, None)])
def test_a_size_that_the_model_was_not_trained_for_is_noted(
    go: Callable[..., Report], size: str | None, noted: str | None
) -> None:
    notes = [note for note in go("edit", method="sdedit", size=size).notes if "was trained for" in note]
    assert notes == (
        [f"{noted} is far from the 32x32 px that the model was trained for, and will come out worse; --size 32 is near"]
        if noted
        else []
    )


def test_a_walk_between_noises_of_such_a_size_is_noted_too(go: Callable[..., Report]) -> None:
    notes = go("interpolate", images=[], src=[], prompt="a cat", size="64").notes
    assert [note for note in notes if note.startswith("64x64 px is far from the 32x32 px")]
    assert [note for note in go("istd", size="64").notes if note.startswith("64x64 px is far from")]
