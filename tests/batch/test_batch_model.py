"""Batches with a model, the tiny random one: loaded once, inversions shared, and the same pictures however divided."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from smoothtool.batch.run import BatchOptions, run_batch
from smoothtool.commands.shared import session
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import ModelError
from smoothtool.recipe.reading import plan_recipe
from smoothtool.types import Outcome, silent
from smoothtool.weights.sample_pictures import SAMPLES
from smoothtool.yaml12 import read_yaml


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Grows by one with every model that is loaded."""
    monkeypatch.setenv("SMOOTHTOOL_CACHE", str(tmp_path / "cache"))
    seen: list[str] = []
    load = session.load_model

    def counted(*arguments: Any, **options: Any) -> DiffusionModel:
        seen.append("loaded")
        return load(*arguments, **options)

    monkeypatch.setattr(session, "load_model", counted)
    return seen


def batch(text: str, tiny: Path, output: Path, options: BatchOptions | None = None) -> list[Outcome]:
    defaults = f"defaults: {{model: '{tiny}', steps: 2, size: 16, inner_steps: 1, guidance: 2}}\n"
    return run_batch(
        plan_recipe(read_yaml(defaults + text, "r.yaml"), [f"output={output}"]), options or BatchOptions(), silent
    )


def edited(output: Path) -> dict[str, np.ndarray]:
    return {path.parent.name: np.asarray(Image.open(path)) for path in sorted(output.glob("*/edited.png"))}


def test_the_model_is_loaded_once_and_an_inversion_made_once(tiny: Path, tmp_path: Path, loads: list[str]) -> None:
    outcomes = batch(
        "jobs: [{command: edit, image: 'samples:[fc]*', src: x, trg: a cat, matrix: {ratio: [0.5, 1]}}]",
        tiny,
        tmp_path / "out",
    )
    assert loads == ["loaded"]
    assert {outcome.status for outcome in outcomes} == {"made"}
    reports = [json.loads((tmp_path / "out" / o.record["name"] / "report.json").read_text()) for o in outcomes]
    cached = [report["figures"]["inversion"]["cached"] for report in reports]
    assert cached == [False] * 3 + [True] * 3
    assert [report["unet_calls"] for report in reports[3:]] == [2, 2, 2]


def test_one_process_and_two_shards_make_the_same_pictures(tiny: Path, tmp_path: Path, loads: list[str]) -> None:
    text = "jobs: [{command: edit, method: sdedit, image: 'samples:[fcp]*', trg: a cat}]"
    batch(text, tiny, tmp_path / "whole")
    for index in (2, 1):
        batch(text, tiny, tmp_path / "shared", BatchOptions(shard=(index, 2)))
    whole, shared = edited(tmp_path / "whole"), edited(tmp_path / "shared")
    assert whole.keys() == shared.keys() == {"fox", "cat", "cake", "panda", "pear"}
    assert all(np.array_equal(whole[name], shared[name]) for name in whole)


def test_a_finished_item_repeats_from_its_own_job_file(tiny: Path, tmp_path: Path, loads: list[str]) -> None:
    batch("jobs: [{command: edit, method: sdedit, image: 'samples:f*', trg: a cat}]", tiny, tmp_path / "out")
    job = (tmp_path / "out" / "fox" / "job.yaml").read_text()
    plan = plan_recipe(read_yaml("output: x\n" + job, "job.yaml"), [f"output={tmp_path / 'again'}"])
    run_batch(plan, BatchOptions(), silent)
    assert np.array_equal(edited(tmp_path / "out")["fox"], edited(tmp_path / "again")["fox"])


def test_weights_that_do_not_load_are_tried_once_and_jobs_of_other_models_go_on(
    tiny: Path, tmp_path: Path, loads: list[str]
) -> None:
    shutil.copytree(tiny, tmp_path / "broken")
    weights = tmp_path / "broken" / "unet" / "diffusion_pytorch_model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:1000])
    text = f"""jobs: [{{command: edit, method: sdedit, image: 'samples:[fc]*', trg: a cat, batch_size: 3,
                       matrix: {{model: ['{tmp_path}/broken', '{tiny}']}}}}]"""
    with pytest.raises(ModelError):
        batch(text, tiny, tmp_path / "out")
    assert len(loads) == 2
    summary = json.loads((tmp_path / "out" / "batch.json").read_text())
    assert summary["counts"] == {"waiting": 3, "made": 3}
    assert {"error" in row for row in summary["items"] if row["status"] == "waiting"} == {True}
    weights.write_bytes(good)
    assert {outcome.status for outcome in batch(text, tiny, tmp_path / "out")} == {"made", "skipped"}


def test_a_folder_goes_through_stable_diffusion_xl_together_as_it_does_alone(
    tiny_xl: Path, tmp_path: Path, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    for name in ("fox", "cat", "cake"):
        shutil.copy(SAMPLES / f"{name}.png", tmp_path / "in")
    edits = "command: edit, method: switch, inversion: nti, src: a fox, trg: a cat, ratio: 0.5"
    pictures = []
    for together in (3, 1):
        monkeypatch.setenv("SMOOTHTOOL_CACHE", str(tmp_path / f"cache-{together}"))
        place = tmp_path / f"out-{together}"
        text = f"jobs: [{{{edits}, image: '{tmp_path / 'in'}', batch_size: {together}}}]"
        outcomes = batch(text, tiny_xl, place)
        assert {outcome.status for outcome in outcomes} == {"made"}
        reports = [json.loads(path.read_text()) for path in place.glob("*/report.json")]
        assert [("together" in report["seconds"]) for report in reports] == [together > 1] * 3
        pictures.append(edited(place))
    assert pictures[0].keys() == pictures[1].keys() == {"fox", "cat", "cake"}
    for name, picture in pictures[0].items():
        assert np.abs(picture.astype(int) - pictures[1][name].astype(int)).max() <= 1
    assert loads == ["loaded"] * 2
