"""What holds where nothing was asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from smoothtool.errors import ModelError, SmoothtoolError, UsageError
from smoothtool.jobs import make_job
from smoothtool.recipe.defaults import with_defaults
from smoothtool.recipe.plan import plan_flags
from smoothtool.weights import settings


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder with a guidance scale of its own, and a place for settings."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "model_index.json").write_text("{}")
    (folder / "smoothtool.json").write_text(json.dumps({"guidance": 3.5, "made_by": "someone"}))
    monkeypatch.setattr(settings, "settings_file", lambda: tmp_path / "settings.yaml")
    monkeypatch.delenv("SMOOTHTOOL_MODEL", raising=False)
    return folder


def guidance_of(model: Path, **given: object) -> tuple[float, dict[str, str]]:
    job = with_defaults(make_job("invert", {"image": "x.png", "src": "a fox", "model": str(model), **given}))
    return job.guidance, job.origins  # type: ignore[attr-defined]


def test_a_model_brings_its_own_guidance(model: Path) -> None:
    assert guidance_of(model) == (3.5, {"guidance": f"the default of the model {model}"})


def test_what_was_given_wins_even_when_it_is_the_usual_value(model: Path) -> None:
    assert guidance_of(model, guidance=7.5) == (7.5, {})


def test_the_users_settings_win_over_the_models(model: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("guidance: 5\n")
    assert guidance_of(model) == (5.0, {"guidance": f"the default of {tmp_path / 'settings.yaml'}"})


def test_a_methods_own_default_wins_over_the_models(model: Path) -> None:
    morph = {"images": ["x.png", "y.png"], "model": str(model)}
    assert with_defaults(make_job("interpolate", morph)).guidance == 3.5  # type: ignore[attr-defined]
    learned = with_defaults(make_job("interpolate", {**morph, "method": "diffmorpher"}))
    assert learned.guidance == 1  # type: ignore[attr-defined]


def test_a_model_without_values_of_its_own_leaves_smoothtools(model: Path) -> None:
    (model / "smoothtool.json").unlink()
    assert guidance_of(model) == (7.5, {})


def test_the_users_model_brings_its_values_under_auto(model: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text(f"model: {model}\n")
    job = with_defaults(make_job("invert", {"image": "x.png", "src": "a fox"}))
    assert job.guidance == 3.5  # type: ignore[attr-defined]


def test_a_plan_holds_the_values_that_will_be_used(model: Path) -> None:
    plan = plan_flags("invert", {"image": ["samples:fox"], "src": "a fox", "model": str(model)})
    assert plan.items[0].job.settings()["guidance"] == 3.5
    assert plan.items[0].job.origins == {"guidance": f"the default of the model {model}"}


def test_a_wrong_value_in_the_settings_names_the_file(model: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("steps: many\n")
    with pytest.raises(UsageError, match=r"settings\.yaml: steps is many, not a whole number"):
        guidance_of(model)


def test_a_key_that_means_nothing_is_named_with_the_one_that_was_meant(model: Path, tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("guidence: 5\n")
    with pytest.raises(ModelError, match="unknown key 'guidence'") as raised:
        guidance_of(model)
    assert raised.value.hint == "did you mean: guidance"


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path.name)])
def test_settings_that_are_no_file_are_named(model: Path, tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "settings.yaml")
    with pytest.raises(SmoothtoolError, match=r"settings\.yaml: "):
        guidance_of(model)


def test_commands_without_a_model_ask_for_no_settings(tmp_path: Path) -> None:
    job = make_job("eval", {"metric": "walk", "folders": [str(tmp_path)]})
    assert with_defaults(job) is job


def test_filling_in_leaves_the_job_that_was_given_as_it_is(model: Path, tmp_path: Path) -> None:
    job = make_job("invert", {"image": "x.png", "model": str(model)})
    lent = {str(tmp_path / "0.png"): "0.png"}
    filled = with_defaults(job.lending(lent))  # type: ignore[attr-defined]
    assert job.origins == {}
    assert filled.lent == lent  # type: ignore[attr-defined]
