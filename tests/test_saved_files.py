"""What version 0.1.0 saved is still read: jobs, reports, the settings inside pictures, inversion files.

The files under data/saved-by-0.1.0 were made by that version on the embedded model, with few steps.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_toys import call_main

from smoothtool.files.storage.inversions import load_inversion
from smoothtool.jobs import make_job
from smoothtool.recipe.reading import load_recipe

SAVED = Path(__file__).parent / "data" / "saved-by-0.1.0"
FOLDERS = sorted(path.parent.name for path in SAVED.glob("*/job.yaml"))
PICTURES = sorted(str(path.relative_to(SAVED)) for path in SAVED.glob("*/*.png"))


def planned(capsys: pytest.CaptureFixture[str], file: Path) -> str:
    code, recipe, _ = call_main(capsys, "run", str(file), "--dry-run")
    assert code == 0
    return recipe


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_saved_job_runs_again(folder: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = [f"model={tiny}", f"output={tmp_path / 'again'}", "size=16"]
    if folder == "istd":
        (tmp_path / "prompts.txt").write_text("a fox\na cat\n")
        overrides.append(f"prompts={tmp_path / 'prompts.txt'}")
    code, _, said = call_main(capsys, "run", str(SAVED / folder / "job.yaml"), *overrides)
    assert code == 0, said
    before, after = (json.loads((place / "report.json").read_text()) for place in (SAVED / folder, tmp_path / "again"))
    assert after["command"] == before["command"]
    changed = {"model", "size", "prompts", "output"}
    assert {key: after["job"][key] for key in before["job"].keys() - changed} == {
        key: value for key, value in before["job"].items() if key not in changed
    }


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_job_in_a_saved_report_is_the_job_in_its_recipe(folder: str) -> None:
    report = json.loads((SAVED / folder / "report.json").read_text())
    (item,) = load_recipe(SAVED / folder / "job.yaml").items
    assert make_job(report["command"], report["job"]).settings() == item.job.settings()


@pytest.mark.parametrize("picture", PICTURES)
def test_a_saved_picture_makes_the_plan_of_the_job_beside_it(picture: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = SAVED / picture
    assert planned(capsys, file) == planned(capsys, file.with_name("job.yaml"))


def test_a_saved_inversion_is_read() -> None:
    inversion, _ = load_inversion(SAVED / "invert" / "inversion.safetensors")
    assert (inversion.method, inversion.prompts, inversion.num_inference_steps) == ("ddim", ("a cat",), 2)
    assert inversion.trajectory.latents.shape == (3, 1, 4, 16, 16)


def test_a_saved_inversion_is_refused_for_another_model(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = SAVED / "invert" / "inversion.safetensors"
    code, _, said = call_main(capsys, "interpolate", str(file), str(file), "--model", str(tiny), "--steps", "2")
    assert code != 0
    assert "inversion.safetensors" in said
