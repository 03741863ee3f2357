"""A picture says what to make again. It says nothing of the machine it was made on, and not where results go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from smoothtool.errors import InputError, UsageError
from smoothtool.files.pictures.images import read_settings, save_image
from smoothtool.files.pictures.provenance import a1111_parameters
from smoothtool.jobs import JOBS, fields_of, make_job
from smoothtool.jobs.options import flag_of, key_of
from smoothtool.recipe.documents import picture_document
from smoothtool.recipe.pictures import plan_picture


def save(path: Path, settings: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(Image.new("RGB", (8, 8)), path, settings=settings, parameters=None)  # type: ignore[arg-type]
    return path


def made(folder: Path, command: str, **settings: object) -> Path:
    """A picture of a result in `folder`, as the commands write it."""
    return save(folder / "x.png", picture_document(command, make_job(command, settings).settings(), folder))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of somebody, with inputs."""
    folder = tmp_path / "home" / "alice"
    for name in ("photos/fox.png", "masks/fox.png", "tuned.safetensors", "weights/model_index.json"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    monkeypatch.chdir(folder)
    return folder


def test_paths_inside_a_picture_are_told_from_its_folder(home: Path) -> None:
    picture = made(
        home / "out" / "drag-fox",
        "drag",
        image="photos/fox.png",
        mask=str(home / "masks/fox.png"),
        point=["1,1:2,2"],
        lora=["tuned.safetensors:0.5"],
        model=str(home / "weights"),
    )
    (job,) = read_settings(picture)["jobs"]  # type: ignore[index]
    assert job["image"] == "../../photos/fox.png"
    assert job["mask"] == "../../masks/fox.png"
    assert job["lora"] == ["../../tuned.safetensors:0.5"]
    assert job["model"] == "../../weights"
    assert b"alice" not in picture.read_bytes()


def test_files_in_other_parts_of_the_disk_only_have_their_names_there(home: Path) -> None:
    document = picture_document("invert", {"image": "/data/photos/fox.png", "lora": ["none"]}, home / "out")
    assert document["jobs"][0] == {"command": "invert", "image": "fox.png", "lora": ["none"]}
    document = picture_document("invert", {"image": "/home/bob/fox.png"}, Path("/home/alice/out"))
    assert document["jobs"][0]["image"] == "fox.png"


def test_names_and_samples_stay_as_they_are(home: Path) -> None:
    job = {"images": ["samples:fox", "https://example.org/a.png"], "model": "stickers"}
    assert picture_document("interpolate", job, home)["jobs"][0] == {"command": "interpolate", **job}


@pytest.mark.parametrize("frame", ["x.png", "frames/000.png"])
def test_a_picture_finds_its_inputs_again_from_anywhere(
    home: Path, tmp_path: Path, frame: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = picture_document("invert", {"image": "photos/fox.png", "lora": ["tuned.safetensors:2"]}, home / "out")
    picture = save(home / "out" / frame, document)
    monkeypatch.chdir(tmp_path)
    (item,) = plan_picture(picture).items
    assert Path(item.job.image) == home / "photos" / "fox.png"  # type: ignore[attr-defined]
    assert item.job.lora == [f"{home / 'tuned.safetensors'}:2"]  # type: ignore[attr-defined]


def test_a_picture_that_travelled_alone_looks_in_the_working_folder(home: Path, tmp_path: Path) -> None:
    picture = save(tmp_path / "elsewhere" / "x.png", {"jobs": [{"command": "invert", "image": "photos/fox.png"}]})
    (item,) = plan_picture(picture).items
    assert Path(item.job.image) == home / "photos" / "fox.png"  # type: ignore[attr-defined]


@pytest.mark.parametrize("place", ["/etc/smoothtool", "~/.ssh", "../../up", "C:\\Users", "here"])
@pytest.mark.parametrize("where", ["top", "job", "defaults", "matrix"])
def test_a_stranger_does_not_say_where_results_go(tmp_path: Path, place: str, where: str) -> None:
    job: dict[str, object] = {"command": "invert", "image": "samples:fox"}
    settings: dict[str, object] = {"jobs": [job]}
    if where == "top":
        settings["output"] = place
    elif where == "defaults":
        settings["defaults"] = {"output": place, "steps": 5}
    else:
        job.update({"output": place} if where == "job" else {"matrix": {"output": [place], "steps": [5]}})
    plan = plan_picture(save(tmp_path / "x.png", settings))
    assert plan.folder is None or not plan.folder.is_absolute()
    assert all(item.job.output is None for item in plan.items)  # type: ignore[attr-defined]
    assert plan.notes == ("x.png: output inside it is not followed: say it on the command line",)


def test_no_option_of_delivery_is_followed(tmp_path: Path) -> None:
    command, model = "train", JOBS["train"]
    delivery = {key_of(name, field): field for name, field in fields_of(model) if flag_of(field).delivery}
    assert {"output", "force", "json", "resume", "tracker"} <= delivery.keys()
    job = {"command": command, "data": "stickers:train", "force": True, "resume": True, "tracker": "wandb"}
    (item,) = plan_picture(save(tmp_path / "x.png", {"jobs": [job]})).items
    assert item.job.handover() == {}


def test_the_command_line_does_say_where_results_go(tmp_path: Path) -> None:
    picture = save(tmp_path / "x.png", {"jobs": [{"command": "invert", "image": "samples:fox", "output": "/etc"}]})
    (item,) = plan_picture(picture, [f"output={tmp_path / 'mine'}"]).items
    assert item.job.output == tmp_path / "mine"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "settings",
    [
        {"jobs": 5},
        {"jobs": [5, None]},
        {"jobs": [{"command": ["invert"]}]},
        {"jobs": [{"command": "invert", "image": {}}]},
        {"jobs": {"command": "invert"}},
        {"defaults": [], "jobs": [{}]},
        {"jobs": [{"command": "drag", "image": "samples:fox", "point": [[1, 2]]}]},
        {"jobs": [{"command": "invert", "image": "samples:fox", "lora": ["a", 5.5], "seed": 10**400}]},
    ],
)
def test_settings_that_cannot_be_meant_are_usage_errors(tmp_path: Path, settings: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=r"x\.png"):
        plan_picture(save(tmp_path / "x.png", settings))


def test_a_picture_without_settings_is_an_input_error(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "plain.png")
    with pytest.raises(InputError, match="carries no settings"):
        plan_picture(tmp_path / "plain.png")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("/home/alice/models/tuned.safetensors", "tuned"),
        ("../sd", "sd"),
        ("owner/model", "owner/model"),
        ("sd15", "sd15"),
    ],
)
def test_the_parameters_text_names_a_model_and_no_place(model: str, name: str) -> None:
    text = a1111_parameters(prompt="a fox", steps=5, guidance_scale=1, seed=1, size_px=(8, 8), model=model)
    assert text.endswith(f"Model: {name}")


def test_jobs_with_absolute_paths_still_run(home: Path, tmp_path: Path) -> None:
    settings = {"jobs": [{"command": "invert", "image": str(home / "photos" / "fox.png")}]}
    (item,) = plan_picture(save(tmp_path / "old.png", settings)).items
    assert json.dumps(item.job.settings()["image"]) == json.dumps(str(home / "photos" / "fox.png"))
