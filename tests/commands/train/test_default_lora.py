"""The LoRA that `train` leaves becomes a model's default one when it lies where that model's is looked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from batch_toys import saved_tiny_model

from smoothtool.commands.invert.cached import inversion_settings
from smoothtool.commands.shared import session
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.commands.train import run as train
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.jobs import TrainJob, make_job
from smoothtool.types import silent
from smoothtool.weights import models as places


@pytest.fixture
def shipped(job: Callable[..., TrainJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model in the place of `stickers`, with a LoRA trained on its weights beside it."""
    folder = saved_tiny_model(tmp_path / "stickers")
    monkeypatch.setattr(train, "open_session", session.open_session)
    report = train.run(job(model=str(folder), max_steps=2), silent)
    shutil.copyfile(report.folder / "smooth-lora.safetensors", folder / "smooth.safetensors")
    monkeypatch.setattr(places, "STICKERS", folder)
    monkeypatch.setattr(places, "STICKERS_LORA", folder / "smooth.safetensors")
    return folder


def opened(**settings: Any) -> tuple[DiffusionModel, Any]:
    job = make_job("invert", {"image": "x", "model": "stickers", "device": "cpu", **settings})
    return session.open_session(job, silent, ModelPool()), job


def test_the_trained_lora_is_the_default_and_none_turns_it_off(shipped: Path) -> None:
    (smooth, _), (plain, _) = opened(), opened(lora=["none"])
    latents = torch.randn(1, 4, 16, 16)
    with torch.no_grad():
        found, expected = (
            model.predict_noise(latents, 500, model.encode_prompts(["a cat"])) for model in (smooth, plain)
        )
    assert [len(model.loras) for model in (smooth, plain)] == [1, 0]
    assert not torch.allclose(found, expected, atol=1e-5)


def test_inversions_with_and_without_the_default_lora_never_share_a_cache_entry(shipped: Path) -> None:
    settings = [inversion_settings(model, ["a cat"], job) for model, job in (opened(), opened(lora=["none"]))]
    assert settings[0]["model"] == settings[1]["model"]
    assert settings[0]["loras"]
    assert settings[1]["loras"] == []


def test_a_new_training_starts_from_the_model_without_its_default_lora(
    shipped: Path, job: Callable[..., TrainJob], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(
        train, "open_session", lambda job, track, pool: seen.append(job) or session.open_session(job, track, pool)
    )
    report = train.run(job(model="stickers", max_steps=1, output=tmp_path / "again"), silent)
    assert seen[0].lora == ["none"]
    assert report.model["loras"] == []
