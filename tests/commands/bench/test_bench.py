"""`smoothtool bench` on small folders of the published layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from smoothtool.commands.bench import morph
from smoothtool.commands.bench.pie import mask_at, masked, outside
from smoothtool.commands.bench.run import run
from smoothtool.errors import BatchError, UsageError
from smoothtool.jobs import BenchJob, make_job
from smoothtool.recipe.estimate import estimate_unet_calls
from smoothtool.types import silent
from smoothtool.weights.sample_pictures import SAMPLES

CHEAP = {"model": "stickers", "lora": "none", "steps": 2, "clip": "stickers", "method": "sdedit"}


@pytest.fixture
def pie(tmp_path: Path) -> Path:
    rows = {}
    for name in ("fox", "cat"):
        folder = tmp_path / "pie" / "annotation_images" / "1_change_object"
        folder.mkdir(parents=True, exist_ok=True)
        Image.open(SAMPLES / f"{name}.png").resize((512, 512)).save(folder / f"{name}.jpg")
        rows[name] = {
            "image_path": f"1_change_object/{name}.jpg",
            "original_prompt": f"a 3d [{name}]",
            "editing_prompt": "a 3d [dog]",
            "editing_type_id": "1",
            "blended_word": f"{name} dog",
            "mask": [512 * row + 128 for row in range(128, 384) for _ in (0, 1)],
        }
    for row in rows.values():
        row["mask"][1::2] = [256] * 256
    (tmp_path / "pie" / "mapping_file.json").write_text(json.dumps(rows))
    return tmp_path / "pie"


def bench(folder: Path, output: Path, benchmark: str = "pie", **settings: Any) -> BenchJob:
    job = make_job("bench", {"benchmark": benchmark, "folder": str(folder), "output": output, **CHEAP, **settings})
    assert isinstance(job, BenchJob)
    return job


def test_pie_bench_is_measured_beside_doing_nothing_and_the_published_rows(pie: Path, tmp_path: Path) -> None:
    job = bench(pie, tmp_path / "out")
    report = run(job, silent)
    figures = report.figures
    assert report.unet_calls == estimate_unet_calls([job]) == 2
    assert figures["items"] == 2
    assert 5 < figures["measured"]["psnr_db"] < 60
    assert figures["no edit"]["psnr_db"] is None
    assert figures["no edit"]["mse"] == 0
    assert figures["measured"]["clip"] != figures["no edit"]["clip"]
    table = (tmp_path / "out" / "table.md").read_text()
    assert "no edit" in table
    assert "paper: P2P, null-text" in table
    assert "27.03" in table
    assert "Rule: mean over items" in table
    lines = (tmp_path / "out" / "items.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["item", "cat", "fox"]
    assert "<th>PSNR dB</th>" in (tmp_path / "out" / "table.html").read_text()


def test_what_measures_and_is_not_here_is_an_empty_column_and_one_line(pie: Path, tmp_path: Path) -> None:
    report = run(bench(pie, tmp_path / "out", limit=1, dino="nobody/dino"), silent)
    assert report.figures["measured"]["structure"] is None
    assert sum(note.startswith("no structure distance: nobody/dino") for note in report.notes) == 1


def test_a_second_run_goes_on_where_the_first_one_stopped(pie: Path, tmp_path: Path) -> None:
    run(bench(pie, tmp_path / "out", limit=1), silent)
    made = (tmp_path / "out" / "items" / "cat" / "edited.png").stat().st_mtime_ns
    report = run(bench(pie, tmp_path / "out"), silent)
    assert report.figures["items"] == 2
    assert (tmp_path / "out" / "items" / "cat" / "edited.png").stat().st_mtime_ns == made
    assert len((tmp_path / "out" / "items.jsonl").read_text().splitlines()) == 2


def test_other_settings_make_the_items_again(pie: Path, tmp_path: Path) -> None:
    first = run(bench(pie, tmp_path / "out", limit=1), silent)
    second = run(bench(pie, tmp_path / "out", limit=1, options=["strength=1"]), silent)
    assert first.figures["measured"]["psnr_db"] > second.figures["measured"]["psnr_db"]


def test_shares_together_are_the_whole(pie: Path, tmp_path: Path) -> None:
    run(bench(pie, tmp_path / "out", shard="1/2"), silent)
    report = run(bench(pie, tmp_path / "out", shard="2/2"), silent)
    assert report.figures["items"] == 2
    assert report.figures["missing"] == 0


def test_an_item_that_fails_does_not_lose_the_rest(pie: Path, tmp_path: Path) -> None:
    (pie / "annotation_images" / "1_change_object" / "cat.jpg").write_bytes(b"no picture")
    with pytest.raises(BatchError, match="1 of 2 items failed, the first is cat"):
        run(bench(pie, tmp_path / "out"), silent)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["figures"]["items"] == 1


def test_what_the_command_does_not_take_is_said_before_anything_is_made(pie: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="method"):
        run(bench(pie, tmp_path / "out", method="telepathy"), silent)
    with pytest.raises(UsageError, match="--set steps: has a place of its own"):
        run(bench(pie, tmp_path / "out", options=["steps=3"]), silent)
    assert not (tmp_path / "out").exists()


def test_a_morph_bench_pair_is_walked_in_seventeen_frames(tmp_path: Path) -> None:
    folder = tmp_path / "morph" / "Animation"
    folder.mkdir(parents=True)
    for end, name in enumerate(("fox", "cat")):
        Image.open(SAMPLES / f"{name}.png").save(folder / f"x_{end}.png")
    job = bench(tmp_path / "morph", tmp_path / "out", "morph", method="vae")
    figures = run(job, silent).figures
    assert len(list((tmp_path / "out" / "items" / "Animation" / "x" / "frames").iterdir())) == 17
    assert figures["measured"]["pdv"] < figures["no edit"]["pdv"]
    assert "cannot be a plain sum" in figures["rule"]


def test_frames_drawn_from_the_walks_are_far_from_the_inputs_and_the_inputs_themselves_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "morph" / "Metamorphosis"
    folder.mkdir(parents=True)
    for name, ends in (("x", ("fox", "cat")), ("y", ("apple", "pear"))):
        for end, picture in enumerate(ends):
            Image.open(SAMPLES / f"{picture}.png").save(folder / f"{name}_{end}.png")
    monkeypatch.setattr(morph, "inception_missing", lambda: "no Inception here")
    job = bench(tmp_path / "morph", tmp_path / "out", "morph", method="vae")
    report = run(job, silent)
    figures = report.figures
    assert figures["measured"]["clip_frechet_distance"] > figures["no edit"]["clip_frechet_distance"] > 0
    assert (figures["measured"]["fid"], figures["counts"]["clip_frechet_distance"]) == (None, 2)
    assert sum("no Inception here" in note for note in report.notes) == 1
    assert "mean of 10 draws" in (tmp_path / "out" / "table.md").read_text()
    assert run(job, silent).figures["measured"] == figures["measured"]  # from what lies there, by the same draws
    monkeypatch.setattr(morph, "inception_missing", str)
    monkeypatch.setattr(morph, "inception_features", lambda pictures: pictures.mean(dim=(2, 3)))
    assert run(job, silent).figures["measured"]["fid"] > 0


def test_outside_figures_do_not_see_the_edited_part() -> None:
    before = torch.rand(1, 3, 16, 16) * 2 - 1
    keep = torch.ones(16, 16, dtype=torch.bool)
    keep[4:12, 4:12] = False
    after = torch.where(keep, before, 1.0)
    assert outside(before, after, keep)["mse"] == 0
    assert outside(before, after, torch.zeros_like(keep)) == {"psnr_db": None, "lpips": None, "mse": None, "ssim": None}


def test_mse_is_over_pixels_from_zero_to_one() -> None:
    before, keep = torch.full((1, 3, 16, 16), -1.0), torch.ones(16, 16, dtype=torch.bool)
    assert outside(before, before + 0.2, keep)["mse"] == pytest.approx(0.01)


def test_masked_pixels_are_black_and_masks_follow_the_pictures_size() -> None:
    keep = torch.tensor([[True, False]])
    assert masked(torch.ones(1, 3, 1, 2), keep)[0, 0].tolist() == [[1.0, -1.0]]
    assert mask_at(keep.numpy(), (2, 4)).tolist() == [[True, True, False, False]] * 2
