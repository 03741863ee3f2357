"""Reports, and jobs that can be run again from anywhere."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from smoothtool.files.storage import leftovers
from smoothtool.files.storage.reports import report_dict, versions, write_report
from smoothtool.recipe.documents import job_document
from smoothtool.types import Report


def job_of(job: dict, command: str = "interpolate") -> dict:
    return job_document(command, job)["jobs"][0]


def test_a_report_and_its_job_are_written(tmp_path: Path) -> None:
    report = Report(
        "interpolate", tmp_path / "out", {"images": ["samples:fox", "/b.png"], "steps": 5, "seed": 3, "size": None}
    )
    report.files = {"frames": [tmp_path / "out" / "frames" / "000.png"], "sheet": "sheet.png"}
    report.figures = {"psnr": float("nan"), "distances": [1.0, 2.0]}
    report.seconds = {"inverting": 1.23456}
    write_report(report, tmp_path, job_document(report.command, report.job))
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["files"] == {"frames": ["frames/000.png"], "sheet": "sheet.png"}
    assert written["figures"] == {"psnr": None, "distances": [1.0, 2.0]}
    assert written["seconds"] == {"inverting": 1.235}
    assert torch.__version__.startswith(written["versions"]["torch"])
    job = {"command": "interpolate", "images": ["samples:fox", "/b.png"], "steps": 5, "seed": 3}
    assert yaml.safe_load((tmp_path / "job.yaml").read_text()) == {"jobs": [job]}


def test_a_report_is_written_into_a_folder_without_old_leftovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "LEFTOVER_AGE_S", -1.0)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / ".0123456789ab.part.safetensors").write_text("half")
    write_report(Report("train", tmp_path, {}), tmp_path, {})
    assert list(tmp_path.rglob(".*")) == []
    assert (tmp_path / "report.json").is_file()


def test_a_tensor_among_the_figures_is_a_programming_error(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="Tensor"):
        report_dict(Report("invert", tmp_path, {}, figures={"psnr": torch.ones(2)}))


@pytest.mark.parametrize("typed", ["samples:fox", "https://example.org/a.png", "/there/a.png"])
def test_what_works_from_anywhere_stays_as_typed(typed: str) -> None:
    assert job_of({"images": [typed]})["images"] == [typed]


def test_relative_pictures_and_outputs_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = job_of({"images": ["a.png", "sub/b.png"], "output": Path("out")})
    assert job["images"] == [str(tmp_path / "a.png"), str(tmp_path / "sub" / "b.png")]
    assert job["output"] == str(tmp_path / "out")


def test_a_picture_with_a_colon_in_its_name_is_still_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ab:c.png").touch()
    assert job_of({"images": ["ab:c.png"]})["images"] == [str(tmp_path / "ab:c.png")]


def test_a_lora_file_becomes_absolute_and_keeps_its_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.safetensors").touch()
    job = job_of({"lora": ["my.safetensors:0.5", "my.safetensors", "smooth:0.5"]})
    assert job["lora"] == [f"{tmp_path}/my.safetensors:0.5", f"{tmp_path}/my.safetensors", "smooth:0.5"]


def test_a_model_name_stays_a_name() -> None:
    assert job_of({"model": "stickers"})["model"] == "stickers"


NAMES = {
    "istd": {"model": "sd15", "lora": ["none", "smooth-sd15:0.5"], "compare_lora": ["default", "smooth-sd15"]},
    "edit": {"clip": "stickers"},
    "tables": {"data": "stickers", "train_data": "stickers:train", "smooth": "smooth-sd15"},
}


def test_a_name_stays_a_name_where_a_folder_is_called_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("sd15", "none", "default", "stickers", "smooth-sd15"):
        (tmp_path / name).mkdir()
    for command, names in NAMES.items():
        assert job_of(names, command) == {"command": command, **names}
    assert job_of({"data": "stickers"}, "train")["data"] == str(tmp_path / "stickers")


def test_a_prompt_that_is_also_a_file_stays_a_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fox").touch()
    assert job_of({"src": ["fox"]})["src"] == ["fox"]


def test_versions_name_everything_a_result_depends_on() -> None:
    assert set(versions()) == {"smoothtool", "python", "torch", "diffusers", "transformers", "peft"}


def test_no_module_of_the_room_loads_torch() -> None:
    rooms = ["drawing.sheets", "pictures.images", "pictures.sequences"]
    rooms += ["storage.cache", "storage.cache_contents", "storage.tensors"]
    rooms += ["storage.inversions", "storage.output", "storage.reports"]
    code = f"import sys, importlib\nfor m in {rooms}: importlib.import_module('smoothtool.files.' + m)\n"
    code += "from smoothtool.files.storage import cache, reports\n"
    code += "cache.InversionCache().entries(); reports.versions()\n"
    code += "print([m for m in ('torch', 'cv2', 'diffusers') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
