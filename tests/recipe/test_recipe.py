"""Recipes: defaults, matrix, overrides, and every mistake with its place."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from smoothtool.errors import UsageError
from smoothtool.recipe.reading import load_recipe, plan_recipe
from smoothtool.recipe.schema import recipe_schema
from smoothtool.recipe.writing import dump_plan
from smoothtool.yaml12 import load_yaml, read_yaml

RECIPES = Path(__file__).parents[2] / "recipes"


def jobs_of(text: str, *overrides: str) -> list[dict]:
    return [item.job.settings() for item in plan_recipe(read_yaml(text, "f.yaml"), overrides).items]


def told(text: str, *overrides: str) -> list[str]:
    with pytest.raises(UsageError) as caught:
        jobs_of(text, *overrides)
    return caught.value.what.splitlines()


def test_every_mistake_is_told_at_once_with_its_place_and_the_likely_meaning() -> None:
    text = """\
defaults: {steps: 30, stps: 1}
nope: 1
jobs:
  - command: interpolate
    images: [a.png, no]
    promt: x
    matrix: {inner-steps: [5, -1], loop: [true, off]}
  - command: invrt
  - command: invert
  - 3
"""
    assert told(text, "fram=1", "x") == [
        "fram=1: is not an option (did you mean frames)",
        "x: is not key=value",
        "f.yaml:2:1 nope: is not an option",
        "f.yaml:1:23 defaults.stps: is not an option (did you mean steps)",
        "f.yaml:6:5 jobs[0].promt: is not an option (did you mean prompt)",
        "f.yaml:7:31 jobs[0].matrix.inner-steps[1]: is -1, not a whole number from 0 to 1000",
        "f.yaml:8:5 jobs[1].command: is invrt, not a command (did you mean invert)",
        "f.yaml:9:5 jobs[2].image: is missing",
        "f.yaml:10:5 jobs[3]: is not a mapping of keys to values",
    ]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "is not a mapping"),
        ("[]", "is not a mapping"),
        ("jobs: 3", "jobs: is missing, or not a list"),
        ("jobs: []", "jobs: is missing, or not a list"),
        ("jobs: [{image: a}]", "command: is missing (one of"),
        ("jobs: [{command: [a]}]", "not a command"),
        ("jobs: [{command: invert, image: a, matrix: {steps: 3}}]", "matrix.steps: is not a list"),
        ("jobs: [{command: invert, image: a, matrix: {steps: []}}]", "matrix.steps: is not a list"),
        ("defaults: 3\njobs: [{command: invert, image: a}]", "defaults: is not a mapping"),
    ],
)
def test_recipes_of_the_wrong_shape_are_refused(text: str, what: str) -> None:
    assert any(what in line for line in told(text))


def test_a_matrix_that_explodes_is_refused_before_it_does() -> None:
    axes = ", ".join(f"{key}: {list(range(1, 60))}" for key in ("steps", "inner_steps", "seed"))
    assert told(f"jobs: [{{command: invert, image: a, matrix: {{{axes}}}}}]") == [
        "f.yaml:1:36 jobs[0].matrix: makes over 10000 jobs"
    ]


def test_a_matrix_makes_every_combination_in_order() -> None:
    jobs = jobs_of("jobs: [{command: invert, image: a, matrix: {steps: [1, 2], src: [x, y]}}]")
    assert [(job["steps"], job["src"]) for job in jobs] == [(1, "x"), (1, "y"), (2, "x"), (2, "y")]


def test_a_job_overrides_defaults_and_the_command_line_overrides_both() -> None:
    text = "defaults: {steps: 3, frames: 4}\njobs: [{command: invert, image: a, steps: 5}, {command: invert, image: b}]"
    assert [job["steps"] for job in jobs_of(text)] == [5, 3]
    assert [job["steps"] for job in jobs_of(text, "steps=7")] == [7, 7]


def test_overrides_touch_only_jobs_that_have_the_key() -> None:
    text = "jobs: [{command: invert, image: a}, {command: interpolate, prompt: p}]"
    first, second = jobs_of(text, "frames=2", "inner-steps=1")
    assert "frames" not in first
    assert (second["frames"], second["inner_steps"]) == (2, 1)


def test_overrides_read_lists_and_numbers_as_yaml_does() -> None:
    (job,) = jobs_of("jobs: [{command: interpolate, images: [a, b]}]", "images=[c, d, e]", "guidance=1e-1")
    assert (job["images"], job["guidance"]) == (["c", "d", "e"], 0.1)


def test_a_dumped_recipe_reads_back_to_the_same_jobs(tmp_path: Path) -> None:
    text = "jobs: [{command: interpolate, images: ['1e-4', 'no'], src: ['010', 'a: b']}, {command: invert, image: x}]"
    plan = plan_recipe(read_yaml(text, "f"))
    path = tmp_path / "job.yaml"
    path.write_text(dump_plan(plan), "utf-8")
    again = load_recipe(path)
    assert (again.items, again.folder) == (plan.items, plan.folder)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_recipe_has_a_plan_and_fits_the_schema(path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    assert load_recipe(path).items
    jsonschema.Draft202012Validator(recipe_schema()).validate(load_yaml(path).value)


def test_the_schema_knows_every_command_and_option() -> None:
    schema = recipe_schema()
    titles = {job["title"]: job["properties"] for job in schema["properties"]["jobs"]["items"]["oneOf"]}
    assert titles["interpolate"].keys() >= {"command", "matrix", "images", "json", "inner_steps"}
    assert titles["interpolate"]["frames"]["maximum"] == 1000
    assert yaml.safe_load(yaml.safe_dump(schema)) == schema
