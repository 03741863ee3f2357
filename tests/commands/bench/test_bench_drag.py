"""`smoothtool bench drag` on small folders of DragBench's layout."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from smoothtool.cli.figures import figure_lines
from smoothtool.commands.bench import drag as bench_drag
from smoothtool.commands.bench.run import run
from smoothtool.commands.drag import picture as drag_picture
from smoothtool.commands.drag.stages import Dragged
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import BatchError, InputError
from smoothtool.jobs import BenchJob, make_job
from smoothtool.types import Report, silent

POINTS = {
    "animals/one": [[8, 12], [30, 12]],
    "animals/two": [[8, 12], [18, 12], [8, 12], [8, 22], [20, 5], [20, 5]],  # doubled, and one at its target
}


@pytest.fixture
def session(model: DiffusionModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> DiffusionModel:
    """The tiny model in place of any that would be loaded, and a cache of its own."""
    for command in (drag_picture, bench_drag):
        monkeypatch.setattr(command, "open_session", lambda job, track, pool: model)
    monkeypatch.setattr(bench_drag, "find_model", lambda name: None)
    monkeypatch.setenv("SMOOTHTOOL_CACHE", str(tmp_path / "cache"))
    return model


@pytest.fixture
def dragbench(tmp_path: Path) -> Path:
    levels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    for name, points in POINTS.items():
        folder = tmp_path / "bench" / name
        folder.mkdir(parents=True)
        Image.fromarray(levels).save(folder / "original_image.png")
        meta = {"prompt": "a cat", "points": points, "mask": np.ones((24, 40), np.uint8)}
        (folder / "meta_data.pkl").write_bytes(pickle.dumps(meta))
    return tmp_path / "bench"


def bench(folder: Path, output: Path, **settings: Any) -> BenchJob:
    options = ["lora_steps=0", "iterations=1"]
    given = {
        "benchmark": "drag",
        "method": "dragdiffusion",
        "folder": str(folder),
        "output": output,
        "steps": 4,
        "set": options,
        **settings,
    }
    job = make_job("bench", given)
    assert isinstance(job, BenchJob)
    return job


def test_distances_are_means_over_points_beside_doing_nothing(
    session: DiffusionModel, dragbench: Path, tmp_path: Path
) -> None:
    report = run(bench(dragbench, tmp_path / "out"), silent)
    figures = report.figures
    assert (figures["items"], figures["failed"]) == (2, 0)
    assert figures["no edit"]["distance_px"] == pytest.approx((22 + 10 + 10 + 0) / 4)
    assert figures["no edit"]["normalised"] == pytest.approx((22 / 40 + 10 / 40 + 10 / 24 + 0) / 4)
    assert figures["measured"]["distance_px"] >= 0
    assert figures["measured"]["psnr_db"] > 0
    table = (tmp_path / "out" / "table.md").read_text()
    assert "34.8" in table
    assert "Rule: distances over all points" in table
    assert any("distances over all points" in line for line in figure_lines(report))
    assert sum("not of SD 2.1" in note for note in report.notes) == 1
    assert Image.open(tmp_path / "out" / "items" / "animals" / "one" / "dragged.png").size == (40, 24)


def test_a_second_run_goes_on_and_a_broken_item_is_named(
    session: DiffusionModel, dragbench: Path, tmp_path: Path
) -> None:
    (dragbench / "animals" / "two" / "meta_data.pkl").write_bytes(b"broken")
    job = bench(dragbench, tmp_path / "out", method="fastdrag", set=["lora_steps=0"])
    with pytest.raises(BatchError, match="1 of 2 items failed, the first is animals/two"):
        run(job, silent)
    made = (tmp_path / "out" / "items" / "animals" / "one" / "dragged.png").stat().st_mtime_ns
    with pytest.raises(BatchError):
        run(job, silent)
    assert (tmp_path / "out" / "items" / "animals" / "one" / "dragged.png").stat().st_mtime_ns == made
    figures = json.loads((tmp_path / "out" / "report.json").read_text())["figures"]
    assert (figures["items"], figures["failed"]) == (1, 1)


def test_an_item_that_does_not_fit_into_memory_is_named_and_the_others_are_made(
    session: DiffusionModel, dragbench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drag_one, asked_for = drag_picture.drag_one, []

    def full_at_two(*given: Any) -> Dragged:
        asked_for.append(given)
        if len(asked_for) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return drag_one(*given)

    monkeypatch.setattr(drag_picture, "drag_one", full_at_two)
    with pytest.raises(BatchError, match="1 of 2 items failed, the first is animals/two"):
        run(bench(dragbench, tmp_path / "out"), silent)
    assert (tmp_path / "out" / "items" / "animals" / "one" / "dragged.png").is_file()
    assert "out of memory" in (tmp_path / "out" / "items.csv").read_text()


@pytest.mark.parametrize("method", ["gooddrag", "fastdrag", "warp"])
def test_doubled_and_unmoved_points_are_dragged_by_every_method(
    session: DiffusionModel, dragbench: Path, tmp_path: Path, method: str
) -> None:
    options = ["lora_steps=0", *(["iterations=1"] if method == "gooddrag" else [])]
    report: Report = run(bench(dragbench, tmp_path / "out", method=method, set=options), silent)
    assert report.figures["failed"] == 0


def test_a_folder_without_items_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no items in DragBench's layout"):
        run(bench(tmp_path, tmp_path / "out"), silent)
