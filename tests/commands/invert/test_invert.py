"""`invert` end to end, on the tiny model saved and loaded like any other: figures that are there, files that load."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from toys import tiny_model
from track_toys import Told

from smoothtool.commands.invert import run as invert
from smoothtool.commands.invert.cached import note_convergence
from smoothtool.diffusion.saving import save_model
from smoothtool.errors import InputError
from smoothtool.files.pictures.images import read_settings
from smoothtool.files.storage.inversions import load_inversion
from smoothtool.files.storage.writing import write_json_atomic
from smoothtool.jobs import make_job
from smoothtool.types import Inversion, LatentTrajectory, Report, silent

N = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model as a diffusers folder."""
    place = tmp_path_factory.mktemp("models")
    save_model(tiny_model(place / "tokenizer"), place / "tiny", write_json_atomic)
    return place / "tiny"


@pytest.fixture
def run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Invert a picture of 40 x 24 px into the folder `out`, with a cache of its own."""
    monkeypatch.setenv("SMOOTHTOOL_CACHE", str(tmp_path / "cache"))
    levels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    Image.fromarray(levels).save(tmp_path / "cat.png")

    def run(out: str = "out", **settings: Any) -> Report:
        base = {
            "image": str(tmp_path / "cat.png"),
            "src": "a cat",
            "model": str(folder),
            "steps": N,
            "guidance": 3,
            "seed": 1,
            "inner_steps": 1,
            "output": tmp_path / out,
        }
        return invert.run(make_job("invert", {**base, **settings}), silent)

    return run


def test_the_folder_has_a_loadable_inversion_the_reconstruction_and_the_reports(run: Callable[..., Any]) -> None:
    report = run()
    names = sorted(path.name for path in report.folder.iterdir())
    assert names == ["inversion.json", "inversion.safetensors", "job.yaml", "reconstruction.png", "report.json"]
    inversion, info = load_inversion(report.folder / "inversion.safetensors")
    assert (inversion.method, inversion.num_inference_steps, inversion.prompts) == ("nti", N, ("a cat",))
    assert inversion.null_embeds.shape[:2] == (N, 1)
    assert info["model"] == report.model["fingerprint"]
    assert Image.open(report.folder / "reconstruction.png").size == (40, 24)
    assert read_settings(report.folder / "reconstruction.png")["jobs"][0]["command"] == "invert"


def test_the_report_has_the_reconstruction_beside_the_vae_and_the_losses(run: Callable[..., Any]) -> None:
    report = run()
    figures = json.loads((report.folder / "report.json").read_text())["figures"]
    for part in ("reconstruction", "vae"):
        assert figures[part]["pictures"] == 1
        assert figures[part]["mse"] == pytest.approx(4 * 10 ** (-figures[part]["psnr_db"] / 10))
    assert len(figures["losses"]) == N
    assert figures["inversion_unet_calls"] == report.unet_calls > 2 * N


def test_a_second_run_takes_the_inversion_from_the_cache_without_a_unet_call(run: Callable[..., Any]) -> None:
    first, second = run(), run("again")
    assert (first.figures["cached"], second.figures["cached"], second.unet_calls) == (False, True, 0)
    assert first.figures["reconstruction"] == second.figures["reconstruction"]
    assert run("other", src="a dog").unet_calls > 0


def test_ddim_is_also_measured_at_guidance_1(run: Callable[..., Any]) -> None:
    report = run(inversion="ddim")
    figures = report.figures
    assert figures["guidance_1"].keys() == figures["reconstruction"].keys()
    assert figures["guidance_1"]["mse"] != figures["reconstruction"]["mse"]
    unguided, guided = (Image.open(report.folder / report.files[name]) for name in ("guidance_1", "reconstruction"))
    assert unguided.size == guided.size
    assert unguided.tobytes() != guided.tobytes()


def test_a_missing_picture_is_refused_and_nothing_is_left(run: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"wolf\.png"):
        run(image=str(tmp_path / "wolf.png"))
    assert not (tmp_path / "out").exists()


def test_an_inversion_that_does_not_say_how_far_it_was_is_still_noted() -> None:
    latents, told = torch.zeros(2, 1, 4, 2, 2), Told()
    for method in ("nti", "fixed-point"):
        made = Inversion(method, LatentTrajectory(latents, (1,)), latents[0], ("",), 7.5, converged=False)
        note_convergence(made, told)
    assert ["has not converged" in note for note in told.notes] == [True, True]
