"""The memory that `--dry-run` announces, beside the bytes that a command was counted to hold."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from memory_toys import LiveBytes

from smoothtool.commands import run_job
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.commands.shared.session import open_session
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.jobs import make_job
from smoothtool.recipe.memory import estimate_peak_bytes
from smoothtool.types import silent
from smoothtool.weights.sample_pictures import SAMPLES

FACTOR = 1.3
FOX = {"image": "samples:fox", "src": "a 3d fox"}
FOX_TO_CAT = {**FOX, "trg": "a 3d cat", "clip": "none"}
WALK = {"images": ["samples:fox", "samples:cat"], "inversion": "ddim"}
ROSE = {"image": "samples:rose", "point": ["28,36:44,24"], "method": "dragdiffusion", "iterations": 1}
DRAG = {"model": "sd15", "size": "512", "point": ["1,1:9,9"], "method": "dragdiffusion"}
JOBS: list[tuple[str, dict[str, Any]]] = [
    ("invert", {**FOX, "inversion": "nti", "solver": "adam", "inner_steps": 1}),
    ("invert", {**FOX, "inversion": "ddim"}),
    ("edit", {**FOX_TO_CAT, "method": "p2p"}),
    ("edit", {**FOX_TO_CAT, "method": "pix2pix-zero"}),
    ("edit", {**FOX_TO_CAT, "method": "sdedit"}),
    ("interpolate", {**WALK, "frames": 5}),
    ("interpolate", {**WALK, "frames": 3, "method": "vae"}),
    ("drag", {**ROSE, "method": "dragdiffusion", "lora_steps": 1}),
    ("drag", {**ROSE, "method": "dragdiffusion", "lora_steps": 1, "gradient_checkpointing": True}),
    ("istd", {"n": 2, "frames": 5, "batch_size": 5}),
]


@pytest.fixture(scope="module")
def pool() -> ModelPool:
    return ModelPool()


def weight_bytes(model: DiffusionModel) -> int:
    return sum(weight.numel() * 4 for part in model.parts.values() for weight in part.parameters())


@pytest.mark.parametrize(("command", "settings"), JOBS, ids=str)
def test_what_is_estimated_is_about_what_is_held(
    command: str, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: ModelPool
) -> None:
    monkeypatch.setenv("SMOOTHTOOL_CACHE", str(tmp_path / "cache"))
    cheap = {"model": "stickers", "lora": "none", "device": "cpu", "steps": 2, "seed": 1, "output": tmp_path / "out"}
    job = make_job(command, {**cheap, **settings})
    model = open_session(job, silent, pool)
    weights = weight_bytes(model)
    with LiveBytes() as counted:
        run_job(job, silent, pool)
    estimated = estimate_peak_bytes([job])["float32"] - weights
    assert counted.peak / FACTOR <= estimated <= counted.peak * FACTOR, (estimated / 1e6, counted.peak / 1e6)


@pytest.mark.parametrize(
    "settings",
    [
        {"lambda": 0.0},
        {"lambda": 1.0, "batch_size": 5},
        {"gradient": "double-backward", "size": "96"},
    ],
    ids=str,
)
def test_a_training_holds_about_what_is_estimated(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMOOTHTOOL_CACHE", str(tmp_path / "cache"))
    for number in range(16):  # as many as are encoded at once
        (tmp_path / "data").mkdir(exist_ok=True)
        shutil.copy(SAMPLES / "fox.png", tmp_path / "data" / f"{number}.png")
        (tmp_path / "data" / f"{number}.txt").write_text("a 3d fox")
    small = {"data": str(tmp_path / "data"), "model": "stickers", "lora": "none", "max_steps": 1, "batch_size": 1}
    job = make_job("train", {**small, "device": "cpu", "output": tmp_path / "out", **settings})
    model = open_session(job, silent, ModelPool())
    weights = weight_bytes(model)
    monkeypatch.setattr("smoothtool.commands.train.run.open_session", lambda *given: model)
    with LiveBytes() as counted:
        run_job(job, silent)
    estimated = estimate_peak_bytes([job])["float32"] - weights
    assert counted.peak / FACTOR <= estimated <= counted.peak * FACTOR, (estimated / 1e6, counted.peak / 1e6)


def gigabytes(command: str, **settings: Any) -> dict[str, float]:
    return {dtype: size / 1e9 for dtype, size in estimate_peak_bytes([make_job(command, settings)]).items()}


@pytest.mark.parametrize(
    ("command", "settings", "counted"),
    [
        ("drag", DRAG, 4.2),
        ("drag", {**DRAG, "lora_steps": 0}, 2.6),
        ("drag", {**DRAG, "lora_steps": 0, "mask": "mask.png"}, 2.9),
        ("invert", {"model": "sdxl", "size": "1024", "inversion": "nti"}, 11.5),
        (
            "edit",
            {
                "model": "sdxl",
                "size": "1024",
                "trg": ["a cat"],
                "method": "switch",
                "inversion": "nti",
                "offload": True,
            },
            5.7,
        ),
    ],
    ids=str,
)
def test_models_that_are_not_here_are_estimated_by_their_published_shape(
    command: str, settings: dict[str, Any], counted: float
) -> None:
    """The bytes that were counted at these shapes, weights in float16; the edit starts from a stored inversion."""
    image = "fox.safetensors" if command == "edit" else "samples:fox"
    found = gigabytes(command, **settings, image=image, src="a fox")
    assert found["float16"] == pytest.approx(counted, rel=0.15)
    assert found["float32"] > 1.6 * found["float16"]


def test_precision_and_device_are_taken_as_they_are_asked_for() -> None:
    fox = {"image": "samples:fox", "src": "a fox"}
    assert [*gigabytes("invert", **fox)] == ["float16", "float32"]
    assert [*gigabytes("invert", **fox, device="cpu")] == ["float32"]
    assert [*gigabytes("invert", **fox, device="cuda")] == ["float16"]
    assert [*gigabytes("invert", **fox, dtype="bfloat16")] == ["bfloat16"]
    assert [*gigabytes("train", data="x", model="sd15")] == ["float32"]
    assert gigabytes("eval", metric="walk", folders=["x"]) == {}
    assert gigabytes("invert", **fox, model="some/model") == {}


def test_pictures_that_go_together_take_more() -> None:
    alone, four = (
        estimate_peak_bytes([make_job("invert", {"image": "samples:fox", "src": "a fox", "model": "sd15"})] * count)
        for count in (1, 9)
    )
    assert four["float16"] > alone["float16"]
    assert four["float32"] == alone["float32"]  # one at a time on a CPU
