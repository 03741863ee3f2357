"""`drag` from picture to report on the tiny model: what is left in the folder, and what is refused before it starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, features
from track_toys import Told

from smoothtool.commands.drag import picture as drag_picture
from smoothtool.commands.drag import run as drag
from smoothtool.commands.drag.identity import identity_lora
from smoothtool.commands.drag.stages import around_handles, open_picture
from smoothtool.commands.drag.stages import drag as drag_in
from smoothtool.commands.shared import session as shared_session
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import InputError, UsageError
from smoothtool.files.lists.points import check_points, points_from_numbers
from smoothtool.files.pictures.images import read_settings
from smoothtool.files.storage.cache_contents import clear
from smoothtool.files.storage.identity_cache import IdentityCache
from smoothtool.jobs import identity_steps, make_job
from smoothtool.types import silent


@pytest.fixture
def session(model: DiffusionModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> DiffusionModel:
    """The tiny model in place of any that would be loaded, and a cache of its own."""
    monkeypatch.setattr(drag_picture, "open_session", lambda job, track, pool=None: model)
    monkeypatch.setenv("SMOOTHTOOL_CACHE", str(tmp_path / "cache"))
    return model


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    levels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


def job(picture: Path | None, **settings: Any) -> Any:
    base = {
        "point": ["8,12:30,12"],
        "steps": 6,
        "lora_steps": 0,
        "seed": 1,
        "src": "a cat",
        "method": "dragdiffusion",
        **({} if settings.get("method") == "warp" else {"iterations": 3}),
        **settings,
    }
    return make_job("drag", {**base, **({"image": str(picture)} if picture else {})})


def test_an_animation_is_dragged_in_its_first_frame_and_that_is_noted(session: DiffusionModel, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (40, 24), colour) for colour in ("orange", "navy")]
    frames[0].save(tmp_path / "cat.gif", save_all=True, append_images=frames[1:])
    told = Told()
    report = drag.run(job(tmp_path / "cat.gif", method="warp", output=tmp_path / "out"), told)
    (note,) = [note for note in report.notes if "cat.gif: the first of 2 frames is used" in note]
    assert told.notes.count(note) == 1
    with Image.open(report.folder / "before-after.png") as shown:
        colours = {colour for _, colour in shown.convert("RGB").getcolors(maxcolors=1 << 24)}
    assert frames[0].getpixel((0, 0)) in colours
    assert frames[1].getpixel((0, 0)) not in colours


@pytest.mark.parametrize("method", ["dragdiffusion", "gooddrag", "fastdrag", "warp"])
def test_dragged_picture_has_the_size_of_the_input_and_the_settings_inside(
    session: DiffusionModel, picture: Path, tmp_path: Path, method: str
) -> None:
    report = drag.run(job(picture, method=method, output=tmp_path / "out"), silent)
    assert sorted(path.name for path in report.folder.iterdir()) == [
        "before-after.png",
        "dragged.png",
        "job.yaml",
        "points.json",
        "report.json",
        "trajectory.webp",
    ]
    dragged = report.folder / "dragged.png"
    assert Image.open(dragged).size == (40, 24)
    assert read_settings(dragged)["jobs"][0]["method"] == method
    assert getattr(Image.open(report.folder / "trajectory.webp"), "n_frames", 1) > 1
    written = json.loads((report.folder / "report.json").read_text())
    assert written["unet_calls"] == {"dragdiffusion": 11, "gooddrag": 39, "fastdrag": 8, "warp": 1}[method]
    assert written["figures"]["peak_memory_mb"] > 0
    assert len(written["figures"]["iterations"]) == {"dragdiffusion": 3, "gooddrag": 30}.get(method, 0)


def test_the_report_tells_loss_handles_and_distance_left_of_every_iteration(
    session: DiffusionModel, picture: Path, tmp_path: Path
) -> None:
    figures = drag.run(job(picture, output=tmp_path / "out"), silent).figures
    assert figures["points"][0]["distance_px"] == 22
    assert [len(row["handles_xy_px"]) for row in figures["iterations"]] == [1, 1, 1]
    assert figures["iterations"][0]["handles_xy_px"][0] == pytest.approx((8, 12))
    end = figures["iterations"][-1]["handles_xy_px"][0]
    assert figures["distance_left_px"] == [pytest.approx(((end[0] - 30) ** 2 + (end[1] - 12) ** 2) ** 0.5)]
    assert all(row["loss"] > 0 for row in figures["iterations"])


def test_a_picture_made_from_a_prompt_is_dragged_with_guidance(session: DiffusionModel, tmp_path: Path) -> None:
    settings = {"prompt": "a fox", "src": "", "point": ["8,12:28,12"], "guidance": 3}
    report = drag.run(job(None, **settings, output=tmp_path / "out"), silent)
    assert Image.open(report.folder / "dragged.png").size == (32, 32)
    assert "generate" in report.seconds
    with pytest.raises(UsageError, match=r"--guidance 0\.5: .* dragged with 1 or more"):
        drag.run(job(None, **{**settings, "guidance": 0.5}, output=tmp_path / "weak"), silent)


def test_a_mask_freezes_what_is_dark_in_it(session: DiffusionModel, picture: Path, tmp_path: Path) -> None:
    mask = Image.new("L", (40, 24))
    mask.paste(255, (0, 0, 20, 24))
    mask.save(tmp_path / "mask.png")
    report = drag.run(job(picture, mask=tmp_path / "mask.png", output=tmp_path / "out", method="fastdrag"), silent)
    free = drag.run(job(picture, output=tmp_path / "free", method="fastdrag"), silent)
    assert (report.folder / "dragged.png").read_bytes() != (free.folder / "dragged.png").read_bytes()


@pytest.mark.parametrize("method", ["dragdiffusion", "gooddrag"])
def test_outside_the_mask_the_pixels_are_the_pictures_own(
    session: DiffusionModel, picture: Path, tmp_path: Path, method: str
) -> None:
    light = np.zeros((24, 40), dtype=bool)
    light[:, :34] = True
    Image.fromarray(light).save(tmp_path / "mask.png")
    report = drag.run(job(picture, mask=tmp_path / "mask.png", output=tmp_path / "out", method=method), silent)
    before, after = (np.asarray(Image.open(path).convert("RGB")) for path in (picture, report.folder / "dragged.png"))
    assert np.array_equal(after[~light], before[~light])
    assert not np.array_equal(after[light], before[light])


def test_warp_moves_what_the_mask_holds_pixel_by_pixel(session: DiffusionModel, picture: Path, tmp_path: Path) -> None:
    mask = Image.new("L", (40, 24))
    mask.paste(255, (4, 6, 14, 18))
    mask.save(tmp_path / "mask.png")
    asked = job(picture, mask=tmp_path / "mask.png", output=tmp_path / "out", method="warp", point=["8,12:28,12"])
    before = np.asarray(Image.open(picture))
    after = np.asarray(Image.open(drag.run(asked, silent).folder / "dragged.png"))
    assert np.array_equal(after[8:16, 26:32], before[8:16, 6:12])
    assert np.array_equal(after[:, 36:], before[:, 36:])
    assert not np.array_equal(after[8:16, 6:12], before[8:16, 6:12])  # painted


def test_warp_makes_a_picture_from_a_prompt_and_then_moves_in_it(session: DiffusionModel, tmp_path: Path) -> None:
    settings = {"prompt": "a fox", "src": "", "point": ["8,12:20,12"], "guidance": 3, "method": "warp"}
    report = drag.run(job(None, **settings, output=tmp_path / "out"), silent)
    assert report.unet_calls == 6 + 1
    assert "generate" in report.seconds


def test_warp_refuses_points_that_its_mask_does_not_hold(
    session: DiffusionModel, picture: Path, tmp_path: Path
) -> None:
    mask = Image.new("L", (40, 24))
    mask.paste(255, (30, 6, 38, 18))
    mask.save(tmp_path / "mask.png")
    with pytest.raises(InputError, match="no point lies inside the mask"):
        drag.run(job(picture, mask=tmp_path / "mask.png", output=tmp_path / "out", method="warp"), silent)


def test_sharing_and_iterations_are_not_for_warp() -> None:
    with pytest.raises(UsageError, match="samples no picture beside another"):
        job(None, prompt="a fox", src="", method="warp", shared_blocks=0.5)
    with pytest.raises(UsageError, match="--iterations is for --method dragdiffusion and gooddrag"):
        job(None, prompt="a fox", src="", method="warp", iterations=5)


def test_warp_moves_the_thing_under_the_point_or_else_a_disc_and_says_so(
    session: DiffusionModel, tmp_path: Path
) -> None:
    picture = Image.new("RGB", (40, 24), "navy")
    picture.paste("orange", (6, 8, 16, 18))
    picture.save(tmp_path / "square.png")
    notes = {}
    for name, point in (("thing", "10,12:18,12"), ("disc", "32,12:28,12")):
        told = Told()
        drag.run(job(tmp_path / "square.png", method="warp", point=[point], output=tmp_path / name), told)
        notes[name] = " ".join(told.notes)
    assert "what lies under the points moves, 10% of the picture" in notes["thing"]
    assert "nothing stands out under the points, so a disc around each moves" in notes["disc"]
    after = np.asarray(Image.open(tmp_path / "thing" / "dragged.png").convert("RGB"))
    assert np.array_equal(after[9:17, 15:23], np.asarray(picture)[9:17, 7:15])


def test_the_identity_lora_is_fitted_once_per_picture_and_gone_afterwards(
    session: DiffusionModel, picture: Path, tmp_path: Path
) -> None:
    asked = job(picture, lora_steps=2)
    upright = Image.open(picture)
    for expected in (True, False):
        before = session.counter.calls
        with identity_lora(session, upright, "a cat", asked, silent):
            assert len(session.loras) == 1
        assert (session.counter.calls > before) == expected
        assert not session.loras
    [path] = (tmp_path / "cache" / "identity").glob("*.safetensors")
    whole = path.read_bytes()
    for damaged in (b"damaged", whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:]):
        path.write_bytes(damaged)
        before = session.counter.calls
        with identity_lora(session, upright, "a cat", asked, silent):
            assert session.counter.calls > before
        assert path.read_bytes() == whole


def test_a_cache_that_is_cleared_at_once_costs_a_drag_nothing(
    session: DiffusionModel, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = IdentityCache.put

    def put_and_clear(self: IdentityCache, *entry: Any) -> Path:
        path = put(self, *entry)
        clear("identity")
        return path

    monkeypatch.setattr(IdentityCache, "put", put_and_clear)
    with identity_lora(session, Image.open(picture), "a cat", job(picture, lora_steps=2), silent):
        assert len(session.loras) == 1


def test_a_cache_that_cannot_be_written_costs_a_drag_a_note(
    session: DiffusionModel, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SMOOTHTOOL_CACHE", str(tmp_path / "file"))
    told = Told()
    with identity_lora(session, Image.open(picture), "a cat", job(picture, lora_steps=2), told):
        assert len(session.loras) == 1
    assert "not kept in the cache" in told.notes[0]


def test_no_drag_at_all_gives_the_original_row_back(session: DiffusionModel, picture: Path) -> None:
    """FastDrag over a region that holds no latent of the way: nothing is warped, so both rows are sampled alike."""
    from smoothtool.files.lists.points import points_from_numbers

    asked = job(picture, method="fastdrag")
    opened = open_picture(session, Image.open(picture), "a cat", asked, silent)
    mask = np.zeros((24, 40), bool)
    mask[0:4, 0:4] = True
    dragged = drag_in(session, opened, points_from_numbers([[30, 20, 32, 20]]), mask, asked, silent)
    assert np.array_equal(np.asarray(dragged.before), np.asarray(dragged.after))


def test_without_a_mask_the_region_is_a_disc_around_each_handle() -> None:
    region = around_handles(torch.tensor([[4.0, 4.0]]), torch.tensor([[4.0, 6.0]]), (9, 9))
    assert region[4, 7]
    assert not region[4, 8]
    assert int(region.sum()) == 29  # whole pixels within 3 of the centre


@pytest.mark.parametrize("handle", [[5.5, 5.5], [8.8, 8.8]])
def test_the_shortest_drag_has_a_region_too(handle: tuple[int, int]) -> None:
    assert around_handles(torch.tensor([handle]), torch.tensor([handle]) + 0.1, (9, 9)).any()


def test_a_mask_that_vanishes_among_the_latents_is_refused(
    session: DiffusionModel, picture: Path, tmp_path: Path
) -> None:
    mask = Image.new("L", (40, 24))
    mask.putpixel((1, 1), 255)
    mask.save(tmp_path / "mask.png")
    with pytest.raises(InputError, match="the mask is too small"):
        drag.run(job(picture, mask=tmp_path / "mask.png", output=tmp_path / "out", method="fastdrag"), silent)


@pytest.mark.parametrize(("method", "steps"), [("dragdiffusion", 80), ("gooddrag", 70), ("fastdrag", 0), ("warp", 0)])
def test_fastdrag_and_warp_learn_nothing_unless_asked(method: str, steps: int) -> None:
    asked = make_job("drag", {"image": "cat.png", "point": ["8,12:30,12"], "method": method})
    assert identity_steps(asked.method, asked.lora_steps) == steps
    assert identity_steps(asked.method, 5) == 5


def test_points_outside_the_picture_are_refused_before_a_model_is_loaded(
    picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drag_picture, "open_session", lambda job, track, pool=None: pytest.fail("a model was loaded"))
    with pytest.raises(UsageError, match="--point: 40,12 is outside the picture of 40x24 px"):
        drag.run(job(picture, point=["40,12:3,3"], output=tmp_path / "out"), silent)
    assert not (tmp_path / "out").exists()


def test_a_mask_of_another_size_is_refused_and_nothing_is_left_behind(
    session: DiffusionModel, picture: Path, tmp_path: Path
) -> None:
    Image.new("L", (10, 10), 255).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match="the mask is 10x10 px"):
        drag.run(job(picture, mask=tmp_path / "mask.png", output=tmp_path / "out"), silent)
    assert not (tmp_path / "out").exists()


def test_points_that_count_as_arrived_from_the_start_are_noted_and_the_picture_is_read_once(
    session: DiffusionModel, picture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, load = [], shared_session.load_image
    monkeypatch.setattr(shared_session, "load_image", lambda path: read.append(path.name) or load(path))
    report = drag.run(job(picture, point=["8,12:8.5,12"], output=tmp_path / "out"), silent)
    assert any("counts as arrived" in note for note in report.notes)
    assert read == [picture.name]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"image": "cat.png"}, "--points is missing"),
        ({"point": ["1,2:3,4"]}, "--prompt is missing"),
        ({"image": "cat.png", "point": ["1,2"]}, "--point is 1,2, not from X,Y to X,Y"),
        ({"image": "cat.png", "point": ["1,2:3,nan"]}, "not every number in it is finite"),
        ({"image": "cat.png", "point": ["1,2:3,4"], "points": "p.json"}, "instead of point"),
        ({"image": "cat.png", "prompt": "a fox", "point": ["1,2:3,4"]}, "instead of a picture file"),
        ({"image": "cat.png", "point": ["1,2:3,4"], "strength": 0}, "--strength is 0"),
    ],
)
def test_what_cannot_be_meant_is_told_as_flags(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make_job("drag", settings)


def test_a_strength_of_less_than_one_step_is_refused(picture: Path) -> None:
    with pytest.raises(UsageError, match="less than one step"):
        drag.run(job(picture, strength=0.05), silent)


def test_a_size_that_would_crop_the_picture_is_refused(session: DiffusionModel, picture: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="keeps its shape"):
        drag.run(job(picture, size="32x32", output=tmp_path / "out"), silent)


def test_the_old_flag_of_the_benchmark_says_where_it_is_now(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        make_job("drag", {"bench": tmp_path})
    assert f"has moved: smoothtool bench drag {tmp_path}" in caught.value.what
    assert "missing" not in caught.value.what


def test_points_that_move_nothing_are_refused_unless_they_are_dragbenchs_own() -> None:
    unmoved = points_from_numbers([[8, 12, 8, 12]])
    doubled = points_from_numbers([[8, 12, 30, 12], [8, 12, 20, 12]])
    for points, words in ((unmoved, "its own target"), (doubled, "same place")):
        with pytest.raises(InputError, match=words):
            check_points(points, (40, 24), Path("points.json"))
        check_points(points, (40, 24), Path("meta_data.pkl"))
    with pytest.raises(InputError, match="outside"):
        check_points(points_from_numbers([[8, 12, 99, 12]]), (40, 24), Path("meta_data.pkl"))


@pytest.mark.parametrize("kind", ["jpg", "webp", "avif"])
def test_a_result_of_another_format_carries_its_settings_too(
    session: DiffusionModel, picture: Path, tmp_path: Path, kind: str
) -> None:
    if kind == "avif" and not ("avif" in features.modules and features.check("avif")):
        pytest.skip("this Pillow cannot write AVIF")
    report = drag.run(job(picture, method="fastdrag", format=kind, quality=80, output=tmp_path / "out"), silent)
    path = report.folder / f"dragged.{kind}"
    assert report.files["dragged"] == path.name
    assert Image.open(path).size == (40, 24)
    assert read_settings(path)["jobs"][0]["format"] == kind


def test_png_has_no_quality_and_an_avif_that_cannot_be_written_is_told_first(
    picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="quality is for jpg, webp and avif"):
        job(picture, quality=80)
    monkeypatch.setattr("smoothtool.files.pictures.provenance.features.check", lambda name: False)
    with pytest.raises(UsageError, match="cannot write it"):
        drag.run(job(picture, format="avif"), silent)
