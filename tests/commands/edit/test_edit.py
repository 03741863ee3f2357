"""`edit` and `invert` from picture to report on the tiny model: files, figures, costs, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
from PIL import Image
from toys import tiny_clip

from smoothtool.commands.edit import compare
from smoothtool.commands.edit import run as edit
from smoothtool.commands.edit.methods import EDITS
from smoothtool.commands.invert import cached as inverting
from smoothtool.commands.invert import run as invert
from smoothtool.commands.invert.methods import INVERSIONS
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import ModelError, UsageError
from smoothtool.files.pictures.images import read_settings
from smoothtool.jobs import EDIT_INVERSIONS, INVERSION_NAMES, make_job
from smoothtool.jobs.edit_choice import ANY, REPLACE, WINNERS
from smoothtool.methods.editing.prompt_switch import switch_index
from smoothtool.types import Report, silent

N = 5
PICTURE_PX = (40, 24)


@pytest.fixture
def session(model: DiffusionModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> DiffusionModel:
    """The tiny model in place of any that would be loaded, and a cache of its own."""
    monkeypatch.setattr(edit, "open_session", lambda job, track, pool=None: model)
    monkeypatch.setattr(invert, "open_session", lambda job, track, pool=None: model)
    monkeypatch.setenv("SMOOTHTOOL_CACHE", str(tmp_path / "cache"))
    return model


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    levels = np.random.default_rng(0).integers(0, 256, (*PICTURE_PX[::-1], 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_clip(tmp_path_factory.mktemp("tiny") / "clip")


def run_edit(picture: Path, **settings: Any) -> Report:
    base = {
        "image": str(picture),
        "src": "a red cat",
        "trg": "a red dog",
        "steps": N,
        "guidance": 3,
        "seed": 1,
        "inner_steps": 1,
        "output": picture.parent / f"out-{len(list(picture.parent.iterdir()))}",
    }
    return edit.run(make_job("edit", {**base, **settings}), silent)


def run_invert(picture: Path, **settings: Any) -> Report:
    base = {
        "image": str(picture),
        "src": "a red cat",
        "steps": N,
        "guidance": 3,
        "seed": 1,
        "inner_steps": 1,
        "output": picture.parent / f"out-{len(list(picture.parent.iterdir()))}",
    }
    return invert.run(make_job("invert", {**base, **settings}), silent)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_an_edit_leaves_a_picture_of_the_inputs_size_with_its_settings_inside(
    session: DiffusionModel, picture: Path
) -> None:
    report = run_edit(picture)
    names = sorted(path.name for path in report.folder.iterdir())
    assert names == ["before-after.png", "edited.png", "job.yaml", "report.json"]
    assert Image.open(report.folder / "edited.png").size == PICTURE_PX
    assert read_settings(report.folder / "edited.png")["jobs"][0]["trg"] == ["a red dog"]


def test_a_picture_far_from_the_models_size_comes_back_at_its_own_and_it_is_said(
    session: DiffusionModel, tmp_path: Path
) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (90, 150, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "large.png")
    report = run_edit(tmp_path / "large.png", inversion="ddim")
    assert Image.open(report.folder / "edited.png").size == (150, 90)
    assert any("large.png: 150x90 px is worked on at 41x25" in note for note in report.notes)
    inverted = run_invert(tmp_path / "large.png", inversion="ddim")
    assert Image.open(inverted.folder / "reconstruction.png").size == (150, 90)
    asked = run_edit(tmp_path / "large.png", inversion="ddim", size="32x32")
    assert Image.open(asked.folder / "edited.png").size == (32, 32)
    assert not any("worked on" in note for note in asked.notes)


def test_ratio_zero_is_the_reconstruction_bit_for_bit_and_takes_no_unet_call(
    session: DiffusionModel, picture: Path
) -> None:
    inverted = run_invert(picture)
    report = run_edit(picture, ratio=0)
    assert np.array_equal(pixels(report.folder / "edited.png"), pixels(inverted.folder / "reconstruction.png"))
    assert report.figures["edits"][0]["unet_calls"] == 0


@pytest.mark.parametrize("inversion", INVERSION_NAMES)
def test_an_edit_from_a_cached_inversion_costs_the_steps_after_the_switch(
    session: DiffusionModel, picture: Path, inversion: str
) -> None:
    run_edit(picture, inversion=inversion)
    session.counter.calls = 0
    report = run_edit(picture, inversion=inversion, ratio=0.6)
    per_step = 2 if inversion == "edict" else 1
    assert report.figures["inversion"]["cached"]
    assert report.figures["edits"][0]["unet_calls"] == per_step * (N - switch_index(0.6, N))
    assert report.unet_calls == session.counter.calls == per_step * (N - switch_index(0.6, N))


def test_several_targets_and_ratios_come_from_one_inversion_on_one_sheet(
    session: DiffusionModel, picture: Path
) -> None:
    report = run_edit(picture, trg=["a red dog", "a fox"], ratio="0.4,1")
    assert report.files["edited"] == ["edited-1-r0.4.png", "edited-1-r1.png", "edited-2-r0.4.png", "edited-2-r1.png"]
    assert (report.folder / "sheet.png").is_file()
    calls = report.figures["inversion"]["inversion_unet_calls"]
    assert report.unet_calls == calls + 2 * (2 + 5)


@pytest.mark.parametrize("method", sorted(EDITS))
def test_every_method_changes_the_picture(session: DiffusionModel, picture: Path, clip: Path, method: str) -> None:
    report = run_edit(picture, method=method, clip=str(clip), steps=3)
    edited, source = pixels(report.folder / "edited.png"), pixels(picture)
    assert edited.shape == source.shape
    assert not np.array_equal(edited, source)
    assert report.figures["edits"][0]["unet_calls"] > 0
    assert 0 <= report.figures["edits"][0]["clip_score"] <= 100


def test_auto_takes_a_method_and_says_which_and_why(session: DiffusionModel, picture: Path) -> None:
    report = run_edit(picture, method="auto")
    winner = WINNERS.get(REPLACE, WINNERS[ANY])
    assert report.job["method"] == winner.method
    assert any(note.startswith(f"method {winner.method}: chosen because words are replaced") for note in report.notes)
    assert f"method: {winner.method}" in (report.folder / "job.yaml").read_text()


def test_flowedits_source_guidance_reaches_the_method(session: DiffusionModel, picture: Path) -> None:
    first, second = (run_edit(picture, method="flowedit", source_guidance=scale) for scale in (1, 5))
    assert not np.array_equal(pixels(first.folder / "edited.png"), pixels(second.folder / "edited.png"))


def test_the_same_seed_gives_the_same_edit(session: DiffusionModel, picture: Path) -> None:
    first, second, other = (run_edit(picture, method="sdedit", seed=seed) for seed in (1, 1, 2))
    same = pixels(first.folder / "edited.png")
    assert np.array_equal(same, pixels(second.folder / "edited.png"))
    assert not np.array_equal(same, pixels(other.folder / "edited.png"))


def test_an_inversion_file_edits_like_its_picture(session: DiffusionModel, picture: Path) -> None:
    inverted = run_invert(picture)
    from_file = run_edit(inverted.folder / "inversion.safetensors", output=picture.parent / "from-file")
    from_picture = run_edit(picture, inversion="nti")
    assert np.array_equal(pixels(from_file.folder / "edited.png"), pixels(from_picture.folder / "edited.png"))


def test_an_edict_file_of_the_time_before_its_latents_took_turns_is_refused(
    session: DiffusionModel, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inverting, "REVISION", 1)
    file = run_invert(picture, inversion="edict").folder / "inversion.safetensors"
    with pytest.raises(ModelError, match="another order") as caught:
        run_edit(file, inversion="edict")
    assert "invert the picture again" in caught.value.hint


@pytest.mark.parametrize(
    "option", [{"method": "pix2pix-zero", "map_rows": "one"}, {"inversion": "proxnpi", "proximal": "hard"}]
)
def test_a_methods_other_way_makes_another_picture(
    session: DiffusionModel, picture: Path, option: dict[str, str]
) -> None:
    default = {key: value for key, value in option.items() if key in ("method", "inversion")}
    one, other = (pixels(run_edit(picture, **settings).folder / "edited.png") for settings in (default, option))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"src": "a blue cat"}, "not for 'a blue cat'"),
        ({"steps": 7}, "--steps 5"),
        ({"guidance": 4}, "--guidance 3"),
        ({"method": "switch", "inversion": "npi"}, "inversion nti does not go with --method switch"),
        ({"method": "pnp"}, "under the empty prompt"),
    ],
)
def test_an_inversion_file_that_does_not_fit_is_refused(
    session: DiffusionModel, picture: Path, settings: dict[str, Any], words: str
) -> None:
    inverted = run_invert(picture)
    with pytest.raises(UsageError, match=words):
        run_edit(inverted.folder / "inversion.safetensors", **settings)


def test_a_word_that_is_only_part_of_another_is_refused(session: DiffusionModel, picture: Path) -> None:
    with pytest.raises(UsageError, match="'re', which is no word of"):
        run_edit(picture, method="p2p", reweight="re=2")


def test_blend_words_work_on_a_picture_that_is_not_square(session: DiffusionModel, picture: Path) -> None:
    report = run_edit(picture, method="p2p", blend="cat")
    assert Image.open(report.folder / "edited.png").size == PICTURE_PX


def test_a_prompt_over_the_limit_says_what_was_cut(session: DiffusionModel, picture: Path) -> None:
    report = run_edit(picture, trg=" ".join(["cat"] * 14 + ["dog"]))
    assert any("cut from: 'dog'" in note for note in report.notes)


def test_every_method_and_inversion_has_a_station_and_a_rule() -> None:
    assert set(EDITS) == set(EDIT_INVERSIONS)
    assert set(INVERSION_NAMES) <= set(INVERSIONS)
    assert all(set(fitting) <= set(INVERSION_NAMES) for fitting, _ in EDIT_INVERSIONS.values())


@pytest.mark.parametrize("inversion", ["direct", "edict", "belm"])
def test_exact_inversions_reach_the_vae(session: DiffusionModel, picture: Path, inversion: str) -> None:
    figures = run_invert(picture, inversion=inversion).figures
    assert figures["reconstruction"]["mse"] == pytest.approx(figures["vae"]["mse"], abs=1e-3)


@pytest.mark.parametrize(
    ("inversion", "calls"),
    [("ddim", 2 * N), ("npi", 2 * N), ("direct", N), ("belm", 2 * N - 1), ("edict", 4 * N), ("fixed-point", 5 * N)],
)
def test_inversions_cost_what_they_should(session: DiffusionModel, picture: Path, inversion: str, calls: int) -> None:
    assert run_invert(picture, inversion=inversion).figures["inversion_unet_calls"] == calls


def test_comparing_inversions_makes_one_sheet_and_one_row_for_each(session: DiffusionModel, picture: Path) -> None:
    report = run_invert(picture, compare=True, steps=2)
    rows = report.figures["compare"]
    assert [row["inversion"] for row in rows] == ["VAE alone", "nti", "ddim", "ddim, guidance 1", *INVERSION_NAMES[2:]]
    assert all(row["unet_calls"] > 0 and row["seconds"] > 0 for row in rows[1:])
    assert (report.folder / "compare.md").read_text().count("\n") == len(rows) + 2
    assert (report.folder / "compare.png").is_file()


def test_comparing_edits_makes_one_row_for_each_method(session: DiffusionModel, picture: Path, clip: Path) -> None:
    report = run_edit(picture, compare=True, clip=str(clip), steps=2)
    assert [row["method"] for row in report.figures["compare"]] == list(EDITS)
    assert (report.folder / "compare.png").is_file()


def test_a_method_that_cannot_run_is_left_out_of_the_comparison_and_said(
    session: DiffusionModel, picture: Path, tmp_path: Path
) -> None:
    report = run_edit(picture, compare=True, clip=str(tmp_path / "none"), steps=2)
    assert [row["method"] for row in report.figures["compare"]] == [name for name in EDITS if name != "disentangle"]
    assert any(note.startswith("disentangle is left out") for note in report.notes)


def test_a_comparison_in_which_every_method_fails_fails(
    session: DiffusionModel, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*given: Any) -> NoReturn:
        raise ModelError("NaN")

    monkeypatch.setattr(compare, "one_edit", broken)
    with pytest.raises(ModelError, match="NaN"):
        run_edit(picture, compare=True, steps=1)


def test_sdedit_takes_the_latents_of_any_inversion_file(session: DiffusionModel, picture: Path) -> None:
    file = run_invert(picture, inversion="ddim").folder / "inversion.safetensors"
    of_file, of_picture = (run_edit(place, src="", method="sdedit") for place in (file, picture))
    assert np.array_equal(pixels(of_file.folder / "edited.png"), pixels(of_picture.folder / "edited.png"))
    assert any("as the VAE gives it back" in note for note in of_file.notes)


def test_comparing_without_a_source_prompt_leaves_out_what_needs_one(
    session: DiffusionModel, picture: Path, clip: Path
) -> None:
    report = run_edit(picture, compare=True, clip=str(clip), src="", steps=2)
    assert [row["method"] for row in report.figures["compare"]] == [
        "switch",
        "sdedit",
        "pnp",
        "cycle",
        "flowedit",
        "masactrl",
    ]
