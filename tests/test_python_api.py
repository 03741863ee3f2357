"""`import smoothtool as st`: the same jobs from Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

import smoothtool as st
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.errors import UsageError
from smoothtool.jobs import InterpolateJob
from smoothtool.types import Report, Track


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list:
    """Jobs that a fake `interpolate` was given; it makes two frames, the colours of the pictures it finds."""
    jobs = []

    def run(job: InterpolateJob, track: Track, pool: ModelPool | None = None) -> Report:
        jobs.append(job)
        (tmp_path / "frames").mkdir()
        for index, name in enumerate(job.images):
            Image.open(name).save(tmp_path / "frames" / f"{index:03d}.png")
        return Report(command="interpolate", folder=tmp_path, job=job.settings())

    monkeypatch.setitem(sys.modules, "smoothtool.commands.interpolate.run", SimpleNamespace(run=run))
    return jobs


def test_pil_images_and_paths_give_frames_and_report(seen: list, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "blue").save(tmp_path / "blue.png")
    frames, report = st.interpolate([Image.new("RGB", (4, 4), "red"), tmp_path / "blue.png"], frames=3)
    assert [frame.getpixel((0, 0)) for frame in frames] == [(255, 0, 0), (0, 0, 255)]
    assert report.folder == tmp_path
    assert Image.open(tmp_path / "inputs" / "0.png").getpixel((0, 0)) == (255, 0, 0)
    assert [path.name for path in (tmp_path / "inputs").iterdir()] == ["0.png"]
    assert seen[0].frames == 3


def test_wrong_settings_are_refused_as_on_the_command_line(seen: list) -> None:
    with pytest.raises(UsageError, match="--frames is 0"):
        st.interpolate(["a", "b"], frames=0)
    assert not seen


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="nosuch"):
        _ = st.nosuch
    assert "interpolate" in dir(st)


def test_importing_smoothtool_imports_neither_torch_nor_pillow_nor_pydantic() -> None:
    code = "import sys, smoothtool; print({'torch', 'PIL', 'pydantic', 'typer'} & set(sys.modules))"
    root = Path(__file__).parents[1]
    found = subprocess.run([sys.executable, "-c", code], cwd=root, text=True, capture_output=True, timeout=60)
    assert found.stdout == "set()\n"
