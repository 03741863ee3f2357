"""The estimate of `--dry-run` is what the counter of UNet calls says afterwards, command by command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from smoothtool.commands import run_job
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.jobs import DRAG_ITERATIONS, make_job
from smoothtool.methods.drag.dragdiffusion import DragSettings
from smoothtool.methods.drag.gooddrag import DENOISING_STEPS, GOODDRAG
from smoothtool.recipe.estimate import ROUNDS_A_STEP, UPDATES_A_ROUND, estimate_unet_calls
from smoothtool.types import silent
from smoothtool.weights.sample_pictures import DEFAULT_PROMPTS, SAMPLES

PROMPTS = str(DEFAULT_PROMPTS)
FOX = {"image": "samples:fox", "src": "a 3d fox"}
FOX_TO_CAT = {**FOX, "trg": "a 3d cat"}
WALK = {"images": ["samples:fox", "samples:cat"], "frames": 3, "inversion": "ddim"}
ROSE = {"image": "samples:rose", "point": ["28,36:44,24"], "iterations": 2, "lora_steps": 2, "size": 32}
EXACT: list[tuple[str, dict[str, Any]]] = [
    ("invert", {**FOX, "inversion": "ddim"}),
    ("invert", {**FOX, "inversion": "direct"}),
    ("invert", {**FOX, "inversion": "edict"}),
    ("invert", {**FOX, "inversion": "fixed-point"}),
    ("invert", {**FOX, "inversion": "nti", "solver": "adam", "inner_steps": 2}),
    ("edit", {**FOX_TO_CAT, "method": "switch", "inversion": "ddim", "ratio": "0.5,1"}),
    ("edit", {**FOX_TO_CAT, "method": "p2p"}),
    ("edit", {**FOX_TO_CAT, "method": "pix2pix-zero"}),
    ("edit", {**FOX_TO_CAT, "method": "sdedit", "strength": 0.5}),
    ("edit", {**FOX_TO_CAT, "method": "flowedit", "strength": 0.5}),
    ("edit", {"image": "samples:fox", "trg": "a 3d cat", "compare": True, "size": 16, "steps": 2}),
    ("interpolate", WALK),
    ("interpolate", {**WALK, "frames": 40, "size": 16}),
    ("interpolate", {**WALK, "method": "vae"}),
    ("interpolate", {**WALK, "method": "anid", "steps": 9}),
    ("interpolate", {**WALK, "method": "attention", "reschedule": True}),
    ("interpolate", {**WALK, "method": "diffmorpher", "lora_steps": 2, "frames": 31, "size": 16, "guidance": 2}),
    ("interpolate", {**WALK, "method": "freemorph"}),
    ("interpolate", {**WALK, "method": "freemorph", "loop": True, "guidance": 1}),
    ("interpolate", {"prompt": "a 3d cat", "frames": 2}),
    ("drag", {**ROSE, "method": "fastdrag"}),
    ("drag", {**ROSE, "method": "dragdiffusion"}),
    ("drag", {**ROSE, "method": "gooddrag", "iterations": 10}),
    ("drag", {"prompt": "a 3d rose", "point": ["8,12:20,12"], "method": "warp"}),
    ("istd", {"n": 2, "frames": 3, "steps": 2, "prompts": PROMPTS}),
    ("istd", {"n": 3, "frames": 3, "steps": 2, "batch_size": 2, "prompts": PROMPTS}),
]
ABOUT: list[tuple[str, dict[str, Any]]] = [
    ("invert", {**FOX, "inversion": "nti"}),
    ("invert", {**FOX, "inversion": "spdinv", "steps": 12}),
    ("invert", {**FOX, "compare": True, "size": 16, "steps": 4}),
    ("edit", {**FOX_TO_CAT, "compare": True, "size": 16, "steps": 2}),
    ("interpolate", {**WALK, "compare": True, "size": 16, "steps": 6, "lora_steps": 1}),
]
"""Whose steps end as soon as they are solved."""


@pytest.fixture(scope="module")
def pool() -> ModelPool:
    return ModelPool()


def calls(command: str, settings: dict[str, Any], folder: Path, pool: ModelPool, model: str) -> tuple[int, int]:
    """(estimated, counted)."""
    cheap = {"model": model, "lora": "none", "steps": 4, "seed": 1, "output": folder / "out"}
    job = make_job(command, {**cheap, **settings})
    return estimate_unet_calls([job]), run_job(job, silent, pool).unet_calls


@pytest.mark.parametrize(("command", "settings"), EXACT, ids=str)
def test_what_is_estimated_is_what_is_counted(
    command: str, settings: dict[str, Any], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: ModelPool
) -> None:
    monkeypatch.setenv("SMOOTHTOOL_CACHE", str(tmp_path / "cache"))
    estimated, counted = calls(command, settings, tmp_path, pool, str(tiny))
    assert estimated == counted


@pytest.mark.parametrize(("command", "settings"), ABOUT, ids=str)
def test_solvers_take_at_most_twice_and_at_least_half_of_what_is_estimated(
    command: str, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: ModelPool
) -> None:
    monkeypatch.setenv("SMOOTHTOOL_CACHE", str(tmp_path / "cache"))
    estimated, counted = calls(command, settings, tmp_path, pool, "stickers")
    assert estimated / 2 <= counted <= 2 * estimated


def test_the_numbers_that_jobs_know_of_drag_methods_are_the_methods_own() -> None:
    assert DRAG_ITERATIONS["dragdiffusion"] == DragSettings.iterations
    assert (GOODDRAG.track_every, GOODDRAG.iterations) == (UPDATES_A_ROUND, UPDATES_A_ROUND * ROUNDS_A_STEP)
    assert DRAG_ITERATIONS["gooddrag"] == DENOISING_STEPS * ROUNDS_A_STEP


@pytest.mark.parametrize(
    "settings",
    [{"lambda": 0.0, "sample_every": 2, "steps": 2}, {"lambda": 10.0, "every": 2}, {"gradient": "one-sided"}],
    ids=str,
)
def test_a_training_takes_the_calls_that_are_estimated(
    settings: dict[str, Any], tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMOOTHTOOL_CACHE", str(tmp_path / "cache"))
    small = {"data": str(SAMPLES), "model": str(tiny), "lora": "none", "max_steps": 3, "batch_size": 1}
    job = make_job("train", {**small, "sample_every": 0, "output": tmp_path / "out", **settings})
    assert run_job(job, silent).unet_calls == estimate_unet_calls([job])
