"""Every shipped recipe opens with its command, needs and results, and runs: here at reduced size on a tiny model."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from batch_toys import pictures

from smoothtool.cli.launch import RunOptions, launch
from smoothtool.recipe.reading import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
NAMES = sorted(path.stem for path in RECIPES.glob("*.yaml"))
SMALL = ["steps=2", "size=16", "inner_steps=1", "frames=3", "n=2", "lora_steps=1", "iterations=1", "guidance=2"]
"""Overrides; each recipe takes those that its commands have."""
TRAININGS = [name for name in NAMES if name.startswith("train-")]
OWN = {
    "morph-folder": ["images=[samples:fox, samples:cat]"],
    "restyle-folder": ["image=[samples:fox, samples:cat]"],
    "sweep-ratio": [],
    "compare-inversions": ["image=samples:fox"],
    "compare-editors": ["method=switch"],
    "drag-list": ["size=64"],
    "smoothness": ["compare_lora=[]", "frames=3"],
    "noise-walks": [],
    **{name: ["max_steps=1", "batch_size=2", "accumulate=1", "sample_every=0", "device=cpu"] for name in TRAININGS},
}
"""Recipes that this test runs, and what it changes; the paper's tables have a test of their own."""
LEAVES = {
    "morph-folder": ["walk.webm", "frames/000.png"],
    "restyle-folder": ["fox/edited.png", "cat/edited.png", "index.html"],
    "sweep-ratio": ["fox-r0.3/edited.png", "fox-r0.9/edited.png", "index.html"],
    "compare-inversions": ["compare.md"],
    "compare-editors": ["fox/compare.md", "rose/compare.png"],
    "drag-list": ["fox/dragged.png", "pear/trajectory.webp"],
    "smoothness": ["distances.png", "report.json"],
    "noise-walks": ["a-3d-fox-on-a-green-background/walk.webp"],
    **{name: ["smooth-lora.safetensors", "smooth-lora-kohya.safetensors", "training.png"] for name in TRAININGS},
}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_opens_with_what_it_is_for_its_command_its_needs_and_results(name: str) -> None:
    head = re.match(r"(#.*\n)+", (RECIPES / f"{name}.yaml").read_text("utf-8"))[0]
    lines = [line[1:].strip() for line in head.splitlines()]
    assert lines[0].endswith((".", "?")) or ":" in lines[0]
    assert any(f"smoothtool run recipes/{name}.yaml" in line for line in lines)
    assert any(line.startswith("Needs: ") for line in lines)
    assert any(line.startswith("Gives: ") for line in lines)


@pytest.mark.parametrize("name", OWN)
def test_a_recipe_gives_what_it_promises(
    name: str, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(RECIPES.parent)
    monkeypatch.setenv("SMOOTHTOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("smoothtool.weights.sample_pictures.DEFAULT_PROMPTS", prompts(tmp_path), raising=False)
    plan = load_recipe(RECIPES / f"{name}.yaml", overrides(name, tiny, tmp_path))
    launch(plan, RunOptions())
    assert capsys.readouterr().out
    assert [path for path in LEAVES[name] if not (tmp_path / "out" / path).is_file()] == []
    if plan.folder is not None:
        assert json.loads((tmp_path / "out" / "batch.json").read_text())["counts"] == {"made": len(plan.items)}


def prompts(folder: Path) -> Path:
    (folder / "prompts.txt").write_text("a cat\na dog\n")
    return folder / "prompts.txt"


def captioned(folder: Path) -> Path:
    pictures(folder / "data", 2)
    for index in range(2):
        (folder / "data" / f"p{index}.txt").write_text("a cat")
    return folder / "data"


def overrides(name: str, tiny: Path, tmp_path: Path) -> list[str]:
    """The reductions that the recipe's commands know."""
    text = (RECIPES / f"{name}.yaml").read_text("utf-8")
    command = re.search(r"command: (\w+)", text)[1]
    from smoothtool.jobs import JOBS, keys_of

    known = set(keys_of(JOBS[command])) - ({"lora_steps"} if command == "interpolate" else set())
    small = [change for change in SMALL if change.partition("=")[0] in known]
    more = [f"prompts={prompts(tmp_path)}"] if command == "istd" else []
    more += [f"data={captioned(tmp_path)}"] if command == "train" else []
    return [*small, *OWN[name], *more, f"model={tiny}", f"output={tmp_path / 'out'}"]


@pytest.mark.parametrize("name", NAMES)
def test_the_command_in_the_head_can_be_typed(name: str) -> None:
    lines = (RECIPES / f"{name}.yaml").read_text("utf-8").splitlines()
    words = shlex.split(next(line for line in lines if "smoothtool run" in line).lstrip("# "))
    assert all("=" in word for word in words[words.index("run") + 2 :])
