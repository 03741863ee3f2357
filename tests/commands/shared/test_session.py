"""What every command does first."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from track_toys import Told

from smoothtool.commands.edit import run as edit
from smoothtool.commands.interpolate import run as interpolate
from smoothtool.commands.invert import run as invert
from smoothtool.commands.shared import session
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.diffusion.economies import Economies
from smoothtool.diffusion.model import UNetCalls
from smoothtool.errors import InputError, ModelError
from smoothtool.jobs import make_job
from smoothtool.types import silent

COMMANDS = [
    (interpolate, {"images": ["samples:none", "samples:none"]}, {"images": ["PATH", "PATH"]}),
    (invert, {"image": "samples:none"}, {"image": "PATH"}),
    (edit, {"image": "samples:none", "trg": "a fox"}, {"image": "PATH", "trg": "a fox"}),
]


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for command, *_ in COMMANDS:
        monkeypatch.setattr(command, "open_session", lambda job, track, pool=None: pytest.fail("a model was loaded"))


def job_of(command: ModuleType, settings: dict, path: str) -> Any:
    def put(value: Any) -> Any:
        return [put(part) for part in value] if isinstance(value, list) else value.replace("PATH", path)

    return make_job(command.__name__.split(".")[2], {key: put(value) for key, value in settings.items()})


@pytest.mark.parametrize(("command", "missing", "given"), COMMANDS)
def test_a_bad_source_is_named_before_a_model_is_loaded(
    no_model: None, tmp_path: Path, command: ModuleType, missing: dict[str, Any], given: dict[str, Any]
) -> None:
    with pytest.raises(InputError, match="no such sample picture"):
        command.run(job_of(command, missing, ""), silent)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match=r"broken\.png"):
        command.run(job_of(command, given, "broken.png"), silent)
    if command is not invert:
        with pytest.raises(ModelError, match=r"none\.safetensors: there is no such file"):
            command.run(job_of(command, given, "none.safetensors"), silent)
    assert [path.name for path in tmp_path.iterdir()] == ["broken.png"]


def test_a_single_file_is_loaded_with_its_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def load(*args: Any, **options: Any) -> SimpleNamespace:
        seen.append((args, options))
        cpu = torch.device("cpu")
        return SimpleNamespace(counter=UNetCalls(), economies=Economies({}, cpu), dtype=torch.float32, device=cpu)

    monkeypatch.setattr(session, "load_single_file", load)
    monkeypatch.setattr("smoothtool.weights.models.find_tokenizer", lambda: tmp_path / "words")
    path = tmp_path / "a.safetensors"
    path.touch()
    session.open_session(make_job("invert", {"image": "x", "model": str(path), "device": "cpu"}), silent, ModelPool())
    assert seen == [((path, str(path), tmp_path / "words"), {"device": "cpu", "dtype": "auto", "economies": []})]


def test_pictures_lent_by_the_python_api_are_named_as_the_result_keeps_them(tmp_path: Path) -> None:
    lent, beside = str(tmp_path / "lent" / "0.png"), str(tmp_path / "lent" / "own.png")
    job = make_job("interpolate", {"images": [lent, beside, "samples:fox"], "output": tmp_path / "out"})
    report = session.start_report(job.lending({lent: "0.png"}).model_copy(), job.images)
    assert report.job["images"] == [str(tmp_path / "out" / "inputs" / "0.png"), beside, "samples:fox"]
    assert job.images == [lent, beside, "samples:fox"]


def test_a_note_stands_in_the_report_and_on_the_screen_and_in_the_report_once(tmp_path: Path) -> None:
    screen = Told()
    job, report, track = session.begin(make_job("invert", {"image": "x.png", "output": tmp_path}), ["x.png"], screen)
    track.note("the first frame is used")
    track.note("the first frame is used")
    assert report.notes == ["the first frame is used"]
    assert screen.notes[0] == "the first frame is used"
    assert report.job["seed"] == job.seed is not None


def test_what_has_to_be_known_of_a_picture_is_noted_for_pictures_and_sources_alike(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    one, several = Told(), Told()
    session.read_picture(str(tmp_path / "a.gif"), one)
    session.open_sources([str(tmp_path / "a.gif")], several)
    assert one.notes == several.notes
    assert "frame" in one.notes[0]


@pytest.mark.parametrize(("supported", "notes"), [(True, 0), (False, 1)])
def test_a_precision_that_the_processor_has_no_instructions_for_is_noted(
    tiny: Path, supported: bool, notes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_fp16_supported", lambda: supported, raising=False)
    for dtype, expected in (("float16", notes), ("float32", 0)):
        told = Told()
        job = make_job("istd", {"model": str(tiny), "prompts": "x", "dtype": dtype, "device": "cpu"})
        session.open_session(job, told, ModelPool())
        assert [line for line in told.notes if "no instructions" in line] == (
            expected * ["this CPU has no instructions for float16, which may take many times as long as float32"]
        )
