"""`interpolate` from pictures to the finished folder, on the tiny model saved and loaded like any other."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from PIL import Image
from toys import tiny_model

from smoothtool.commands.interpolate import run as interpolate
from smoothtool.commands.invert import run as invert
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.saving import save_model
from smoothtool.errors import ModelError, UsageError
from smoothtool.files.pictures.images import read_settings
from smoothtool.files.storage.writing import write_json_atomic
from smoothtool.jobs import MORPH_NAMES, make_job
from smoothtool.types import Report, silent

N = 3
PICTURE_PX = (40, 24)
LEFT = ["frames", "job.yaml", "report.json", "sheet.png", "walk.webm", "walk.webp"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a diffusers folder, and one of other weights beside it."""
    place = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("tiny", "other")):
        save_model(tiny_model(place / "tokenizer", seed=seed), place / name, write_json_atomic)
    return place / "tiny"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three pictures, and a cache of its own."""
    monkeypatch.setenv("SMOOTHTOOL_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for name in ("cat", "dog", "fox"):
        levels = rng.integers(0, 256, (*PICTURE_PX[::-1], 3), dtype=np.uint8)
        Image.fromarray(levels).save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.fixture
def walk(folder: Path, place: Path) -> Callable[..., Any]:
    """Interpolate the pictures of these names into the folder `out`."""

    def run(*names: str, out: str = "out", **settings: Any) -> Report:
        images = [str(place / (name if "." in name else f"{name}.png")) for name in names]
        base = {
            "images": images,
            "model": str(folder),
            "steps": N,
            "guidance": 3,
            "frames": 2,
            "seed": 1,
            "inner_steps": 1,
            "output": place / out,
        }
        if settings.get("method") == "diffmorpher":
            del base["guidance"]
        return interpolate.run(make_job("interpolate", {**base, **settings}), silent)

    return run


def frames(report: Report) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted((report.folder / "frames").iterdir())]).astype(int)


def test_a_walk_leaves_exactly_what_is_promised(walk: Callable[..., Any]) -> None:
    report = walk("cat", "dog", src=["a cat", "a dog"])
    assert sorted(path.name for path in report.folder.iterdir()) == LEFT
    assert sorted(path.name for path in (report.folder / "frames").iterdir()) == [f"{i:03d}.png" for i in range(4)]
    frame = Image.open(report.folder / "frames" / "001.png")
    assert frame.size == PICTURE_PX
    assert frame.info["parameters"].startswith("a cat -> a dog\nSteps: 3, Sampler: DDIM, CFG scale: 3")
    assert "/compositeWithTrainedAlgorithmicMedia<" in frame.info["XML:com.adobe.xmp"]
    assert read_settings(report.folder / "frames" / "001.png")["jobs"][0]["src"] == ["a cat", "a dog"]
    assert Image.open(report.folder / "walk.webp").n_frames == 6
    written = json.loads((report.folder / "report.json").read_text())
    assert written["model"]["fingerprint"] == report.model["fingerprint"]
    assert len(written["figures"]["adjacent_l2"]["distances"]) == 3


def test_a_gif_is_written_where_it_is_asked_for(walk: Callable[..., Any]) -> None:
    report = walk("cat", "dog", method="vae", gif=True)
    assert Image.open(report.folder / report.files["gif"]).n_frames == 6


def test_mp4_without_pyav_is_refused_before_any_work(
    walk: Callable[..., Any], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError, match="MP4 needs PyAV"):
        walk("cat", "dog", mp4=True)
    assert not (place / "out").exists()


def test_the_second_run_takes_the_inversion_from_the_cache_and_only_samples(walk: Callable[..., Any]) -> None:
    first, second = walk("cat", "dog"), walk("cat", "dog", out="again")
    assert [run.figures["inversion"]["cached"] for run in (first, second)] == [False, True]
    assert first.unet_calls == first.figures["inversion"]["inversion_unet_calls"] + N
    assert second.unet_calls == N
    assert np.array_equal(frames(first), frames(second))


def test_a_failed_run_leaves_nothing(walk: Callable[..., Any], place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(*_: object) -> NoReturn:
        raise OSError("disk full")

    before = sorted(place.iterdir())
    monkeypatch.setattr(interpolate, "save_webm", full_disk)
    with pytest.raises(OSError, match="disk full"):
        walk("cat", "dog", method="vae")
    assert sorted(place.iterdir()) == before


def test_an_output_folder_with_results_is_replaced_only_by_force(walk: Callable[..., Any]) -> None:
    first = walk("cat", "dog", method="vae")
    with pytest.raises(UsageError, match="not empty") as refusal:
        walk("cat", "dog", method="vae", frames=1)
    assert refusal.value.exit_code == 2
    assert len(frames(first)) == 4
    assert len(frames(walk("cat", "dog", method="vae", frames=1, force=True))) == 3


@pytest.fixture
def inversions(place: Path, folder: Path) -> list[str]:
    for name in ("cat", "dog"):
        settings = {
            "image": str(place / f"{name}.png"),
            "src": f"a {name}",
            "model": str(folder),
            "steps": N,
            "guidance": 3,
            "inversion": "ddim",
            "output": place / name,
        }
        invert.run(make_job("invert", settings), silent)
    return ["cat/inversion.safetensors", "dog/inversion.safetensors"]


def test_inversion_files_walk_like_their_pictures(walk: Callable[..., Any], inversions: list[str]) -> None:
    from_files = walk(*inversions)
    from_pictures = walk("cat", "dog", src=["a cat", "a dog"], out="pictures")
    assert np.abs(frames(from_files) - frames(from_pictures)).max() <= 2


def test_inversion_files_of_another_path_or_of_other_prompts_are_refused(
    walk: Callable[..., Any], inversions: list[str], place: Path, folder: Path
) -> None:
    settings = {
        "image": str(place / "cat.png"),
        "src": "a cat",
        "model": str(folder),
        "steps": N,
        "guidance": 3,
        "inversion": "edict",
        "output": place / "exact",
    }
    invert.run(make_job("invert", settings), silent)
    with pytest.raises(UsageError, match="the path of inversion edict is not DDIM's"):
        walk("exact/inversion.safetensors", inversions[1])
    with pytest.raises(UsageError, match="was made for 'a dog', which is not in --src / try: leave --src out"):
        walk(*inversions, src=["a cat"])


def test_inversion_files_of_other_weights_are_refused_with_exit_code_4(
    walk: Callable[..., Any], inversions: list[str], folder: Path
) -> None:
    with pytest.raises(ModelError, match="belongs to other weights") as refusal:
        walk(*inversions, model=str(folder.parent / "other"))
    assert refusal.value.exit_code == 4


def test_inversion_files_of_other_steps_and_beside_pictures_are_refused(
    walk: Callable[..., Any], inversions: list[str]
) -> None:
    with pytest.raises(UsageError, match="have 3 steps, the walk 4 / try: --steps 3"):
        walk(*inversions, steps=4)
    with pytest.raises(UsageError, match="mixed"):
        walk(inversions[0], "dog")


def test_adain_changes_the_frames_between_and_leaves_the_ends(walk: Callable[..., Any]) -> None:
    plain, evened = (
        frames(walk("cat", "dog", inversion="ddim", out=str(adain), adain=adain)) for adain in (False, True)
    )
    assert np.array_equal(evened[[0, -1]], plain[[0, -1]])
    assert not np.array_equal(evened[1], plain[1])


def test_a_loop_through_three_pictures_ends_on_its_first_frame(walk: Callable[..., Any]) -> None:
    report = walk("cat", "dog", "fox", loop=True, inversion="ddim")
    seen = frames(report)
    assert len(seen) == 3 * 3 + 1
    assert np.array_equal(seen[0], seen[-1])
    assert not np.array_equal(seen[0], seen[3])
    assert Image.open(report.folder / "walk.webp").n_frames == 9
    assert report.unet_calls == 2 * N + 3 * N


def test_a_noise_walk_is_decided_by_its_seed(walk: Callable[..., Any]) -> None:
    def noise_walk(seed: int, out: str) -> Report:
        return walk(prompt="a cat", seed=seed, out=out, size="32")

    one, same, other = noise_walk(1, "one"), noise_walk(1, "same"), noise_walk(2, "other")
    assert np.array_equal(frames(one), frames(same))
    assert not np.array_equal(frames(one), frames(other))
    frame = Image.open(one.folder / "frames" / "000.png")
    assert frame.size == (32, 32)
    assert "Seed: 1, Size: 32x32" in frame.info["parameters"]
    assert "/trainedAlgorithmicMedia<" in frame.info["XML:com.adobe.xmp"]


def test_a_noise_walk_of_a_size_the_model_cannot_make_is_refused(walk: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match=r"--size 36x36: .* multiples of 8"):
        walk(prompt="a cat", size="36")


@pytest.mark.parametrize(("method", "calls"), [("vae", 0), ("anid", 2), ("attention", 4), ("freemorph", 3 * (5 + 2))])
def test_every_method_ends_on_the_pictures_at_its_own_cost(walk: Callable[..., Any], method: str, calls: int) -> None:
    report = walk("cat", "dog", method=method, frames=3, steps=4, inversion="ddim")
    faded = frames(walk("cat", "dog", method="vae", frames=3, out="vae"))
    assert report.unet_calls - report.figures.get("inversion", {}).get("inversion_unet_calls", 0) == calls
    assert np.array_equal(frames(report)[1:-1], faded[1:-1]) == (method == "vae")
    if method != "attention":
        assert np.array_equal(frames(report)[[0, -1]], faded[[0, -1]])
    assert ("parameters" in Image.open(report.folder / "frames" / "001.png").info) == (method != "vae")


def test_diffmorpher_learns_every_picture_once_whatever_is_made_of_it(walk: Callable[..., Any]) -> None:
    learned = {"method": "diffmorpher", "lora_steps": 2}
    first = walk("cat", "dog", **learned)
    again = walk("dog", "fox", "cat", **learned, loop=True, out="again")
    other = walk("cat", "dog", **learned | {"lora_steps": 1}, out="other")
    sampled = N + N + N  # inverting, sampling the ends, sampling the frames of a pair
    assert first.unet_calls == 2 * 2 + sampled
    assert again.unet_calls == 2 + sampled + 2 * N
    assert other.unet_calls == 2 * 1 + sampled
    seen = frames(again)
    assert len(seen) == 3 * 3 + 1
    assert np.array_equal(seen[0], seen[-1])
    assert np.abs(seen[0] - frames(first)[-1]).max() <= 1  # the dog, whichever picture it was learned beside
    assert "CFG scale: 1.0," in Image.open(first.folder / "frames" / "001.png").info["parameters"]


def test_learning_the_pictures_changes_the_frames_of_diffmorpher(walk: Callable[..., Any]) -> None:
    fitted, plain = (
        frames(walk("cat", "dog", method="diffmorpher", lora_steps=steps, out=str(steps))) for steps in (4, 0)
    )
    assert not np.array_equal(fitted, plain)


def test_diffmorpher_from_inversion_files_needs_no_captions(walk: Callable[..., Any], inversions: list[str]) -> None:
    assert len(walk(*inversions, method="diffmorpher", lora_steps=1).files["frames"]) == 4


def test_freemorph_is_decided_by_its_seed(walk: Callable[..., Any]) -> None:
    one, same, other = (
        frames(walk("cat", "dog", method="freemorph", seed=seed, out=out, steps=5))
        for seed, out in ((1, "one"), (1, "same"), (2, "other"))
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(("corners", "between", "rows"), [(3, 1, [1, 2, 3]), (4, 1, [3, 3, 3])])
def test_a_grid_has_its_pictures_at_the_corners_and_mixtures_between(
    walk: Callable[..., Any], corners: int, between: int, rows: list[int]
) -> None:
    names = ["cat", "dog", "fox", "cat"][:corners]
    report = walk(*names, grid=True, frames=between, inversion="ddim")
    assert sorted(path.name for path in report.folder.iterdir()) == ["frames", "job.yaml", "report.json", "sheet.png"]
    assert [len(row) for row in report.figures["weights"]] == rows
    seen = frames(report)
    at = [0, 3, 5] if corners == 3 else [0, 2, 6, 8]
    ends = frames(walk(*names, inversion="ddim", frames=1, out="walk"))[::2]
    assert np.abs(seen[at] - ends).max() <= 1
    assert all((seen[at] != mixed).any(axis=(1, 2, 3)).all() for mixed in np.delete(seen, at, axis=0))
    assert len(report.figures["neighbour_l2"]["distances"]) == (9 if corners == 3 else 12)
    assert report.unet_calls == 2 * N + N


def test_a_grid_is_asked_for_by_three_or_four_pictures_and_is_no_film() -> None:
    grid = {"images": ["a", "b", "c"], "grid": True}
    assert (make_job("interpolate", grid).frames, make_job("interpolate", {**grid, "frames": 5}).frames) == (3, 5)
    for settings, words in (
        ({"images": ["a", "b"]}, "mixes three or four pictures, not 2"),
        ({"method": "vae"}, "is vae, and a grid mixes noises, which is the method slerp"),
        ({"loop": True}, "is for a sequence of frames, and a grid is none"),
        ({"gif": True}, "is for a sequence of frames, and a grid is none"),
        ({"apng": True}, "is for a sequence of frames, and a grid is none"),
        ({"frames": 31}, "is 31 along a side: a grid holds 30 at most, 1024 in all"),
    ):
        with pytest.raises(UsageError, match=words):
            make_job("interpolate", {**grid, **settings})


def test_all_methods_are_compared_on_one_sheet_and_in_one_table(walk: Callable[..., Any]) -> None:
    report = walk("cat", "dog", compare=True, steps=4, frames=3, lora_steps=1, inversion="ddim", reschedule=True)
    rows = {row["method"]: row for row in report.figures["compare"]}
    assert tuple(rows) == MORPH_NAMES
    assert {path.name for path in report.folder.iterdir()} == {"compare.md", "compare.png", "job.yaml", "report.json"}
    assert (report.folder / "compare.md").read_text().count("\n") == len(rows) + 2
    assert rows["vae"]["unet_calls"] == 0
    assert (rows["slerp"]["opening_unet_calls"], rows["attention"]["opening_unet_calls"]) == (2 * 4, 2 * 4)
    assert rows["diffmorpher"]["opening_unet_calls"] == 2 * 1 + 2 * 4
    assert report.unet_calls == 8 + 2 * 4 + 2 * 4 + 0 + 2 + 2 * 3 * 7 + 10 + 2 * 4
    assert rows["anid"]["ends_psnr_db"] == rows["freemorph"]["ends_psnr_db"] == rows["vae"]["ends_psnr_db"]


def test_a_comparison_says_which_costs_the_cache_hides(walk: Callable[..., Any]) -> None:
    settings = {"compare": True, "steps": 2, "frames": 2, "lora_steps": 1, "inversion": "ddim"}
    walk("cat", "dog", **settings)
    again = walk("cat", "dog", **settings, out="again")
    rows = {row["method"]: row for row in again.figures["compare"]}
    assert (rows["slerp"]["opening_unet_calls"], rows["slerp"]["opening_seconds"]) == (2 * 2, None)
    assert (rows["diffmorpher"]["opening_unet_calls"], rows["diffmorpher"]["opening_seconds"]) == (None, None)
    assert rows["vae"]["opening_seconds"] is not None
    assert "anid" not in rows
    assert "anid is left out" in "".join(again.notes)


def test_a_comparison_is_of_two_pictures_and_of_frames_that_all_methods_make() -> None:
    pair = {"images": ["a", "b"], "compare": True}
    assert (make_job("interpolate", pair).frames, make_job("interpolate", {**pair, "frames": 3}).frames) == (7, 3)
    for settings, words in (
        ({"images": ["a", "b", "c"]}, "runs every method between two pictures, not 3"),
        ({"images": [], "prompt": "a cat"}, "runs every method between two pictures, not 0"),
        ({"loop": True}, "is for one sequence of frames, and all methods are compared"),
        ({"apng": True}, "is for one sequence of frames, and all methods are compared"),
    ):
        with pytest.raises(UsageError, match=words):
            make_job("interpolate", {**pair, **settings})


def test_rescheduling_keeps_the_ends_and_evens_out_the_steps(walk: Callable[..., Any]) -> None:
    plain = walk("cat", "dog", inversion="ddim", frames=4)
    even = walk("cat", "dog", inversion="ddim", frames=4, reschedule=True, out="even")
    assert np.array_equal(frames(plain)[[0, -1]], frames(even)[[0, -1]])
    assert even.figures["adjacent_l2_before_rescheduling"] == plain.figures["adjacent_l2"]
    assert even.figures["adjacent_l2"]["population_std"] < plain.figures["adjacent_l2"]["population_std"]
    assert even.figures["ratios"] != plain.figures["ratios"]
    assert even.unet_calls == plain.unet_calls - 2 * N + N


def test_a_walk_that_does_not_move_keeps_its_ratios(walk: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiffusionModel, "decode_latents", lambda self, latents: torch.zeros(len(latents), 3, 32, 32))
    report = walk(prompt="a cat", size="32", reschedule=True)
    assert report.figures["ratios"][0] == pytest.approx([1 / 3, 2 / 3])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"method": "anid"}, "--method is anid, which fills in 2^k - 1 frames from the middle: 7 or 15, not 9"),
        (
            {"method": "anid", "frames": 7, "images": ["a", "b", "c"]},
            "--method is anid, which goes between two pictures, not 3",
        ),
        ({"method": "anid", "frames": 7, "loop": True}, "--loop does not go with the method anid"),
        ({"method": "anid", "frames": 7, "reschedule": True}, "--reschedule does not go with the method anid"),
        ({"method": "vae", "images": [], "prompt": "a cat"}, "--method is vae, which goes between pictures"),
        (
            {"method": "freemorph", "images": [], "prompt": "a cat"},
            "--method is freemorph, which goes between pictures",
        ),
        ({"lora_steps": 10}, "--lora-steps is for the method diffmorpher, not for slerp"),
        ({"method": "diffmorpher", "adain": True}, "--adain is for the method slerp or attention, not for diffmorpher"),
    ],
)
def test_combinations_that_make_no_sense_are_refused_in_one_sentence(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as refusal:
        make_job("interpolate", {"images": ["a", "b"], **settings})
    assert refusal.value.what.startswith(words)
    assert "\n" not in refusal.value.what


def test_anid_with_too_few_steps_for_its_levels_says_how_many_it_needs(walk: Callable[..., Any], place: Path) -> None:
    with pytest.raises(UsageError, match="3 steps are too few for 3 levels of frames"):
        walk("cat", "dog", method="anid", frames=7)
    assert not (place / "out").exists()


def test_what_happens_to_pictures_and_prompts_unasked_is_said(walk: Callable[..., Any], place: Path) -> None:
    Image.new("RGBA", (48, 24), (255, 0, 0, 0)).save(place / "wide.png")
    report = walk("cat", "wide", method="vae", src=["a (red:1.4) cat"])
    said = "\n".join(report.notes)
    assert "wide.png: 48x24 px is cropped to the shape of 40x24: 17% is lost at left and right" in said
    assert "wide.png: transparent parts are shown on white" in said
    assert said.count("(red:1.4): this notation of A1111 is taken as words") == 1
    assert "cat.png" not in said
