"""What `gpu.py` lets a child process do: the marked tests, a command on `stickers`, and a job at a published shape."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from gpu import SIDES_PX
from PIL import Image
from toys import tiny_model, tiny_tokenizer
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import smoothtool.commands.train.run as training
from smoothtool.commands import run_job
from smoothtool.commands.shared.cost import peak_memory_mb
from smoothtool.commands.shared.model_pool import ModelPool, model_key
from smoothtool.diffusion.ddim import Schedule
from smoothtool.diffusion.loading import assemble, vae_precision
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.single_file import CONFIGS
from smoothtool.diffusion.text import OneEncoder, TwoEncoders
from smoothtool.jobs import make_job
from smoothtool.types import silent
from smoothtool.weights.sample_pictures import SAMPLES

Row = dict[str, Any]
CONFIG_FOLDERS = {"sd15": "sd1", "sdxl": "sdxl", "tiny": ""}
_pool = ModelPool()


def device_facts(device: str) -> Row:
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return {"device": name, "torch": torch.__version__}


def marked_tests(device: str) -> Row:
    """The tests marked `gpu`; the suite may have none. Raises: RuntimeError, with pytest's last line."""
    if device == "cpu":
        return {"note": "left out: this is a CPU"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-m", "gpu", str(Path(__file__).parents[1])]
    done = subprocess.run(command, capture_output=True, text=True)
    last = (done.stdout.strip().splitlines() or ["no word"])[-1]
    if done.returncode not in (0, 5):
        raise RuntimeError(last)
    return {"note": last}


def sticker_job(command: str, settings: Mapping[str, Any], truth: Path | None) -> Row:
    """A command on `stickers`; `truth` is where the CPU's pictures are."""
    _pool.drop()
    figures = _timed(command, settings)
    return figures if truth is None else {"PSNR to the CPU dB": likeness(truth, settings["output"]), **figures}


def likeness(truth: Path, place: Path) -> float | None:
    """The lowest PSNR among the pictures that a run and the CPU's run have in common; None where there are none."""
    found = []
    for path in truth.rglob("*.png"):
        other = place / path.relative_to(truth)
        if other.is_file() and path.name not in ("sheet.png", "before-after.png"):
            a, b = (np.asarray(Image.open(one).convert("RGB"), float) / 255 for one in (path, other))
            error = float(((a - b) ** 2).mean()) if a.shape == b.shape else 1.0
            found.append(99.0 if error == 0 else -10 * float(np.log10(error)))
    return min(found, default=None)


def shape_job(root: Path, shape: str, command: str, settings: Mapping[str, Any]) -> Row:
    """A command at the shape of a published model; with random weights: only what it costs means anything.

    settings   `image` and `images` name samples, which are made as large as the model's pictures
    """
    given = {**settings}
    for key in ("image", "images"):
        if key in given:
            names = [given[key]] if key == "image" else given[key]
            places = [str(_picture(root / "in", name, shape)) for name in names]
            given[key] = places[0] if key == "image" else places
    return _timed(command, given, lambda: random_model(root / "words", shape, given["device"], given["dtype"]))


def training_job(root: Path, shape: str, settings: Mapping[str, Any]) -> Row:
    """Some steps of training in float32, and the seconds of a middle one of them."""
    _pool.drop()
    for name in ("apple", "pear"):
        _picture(root / "in", name, shape)
    build = partial(random_model, root / "words", shape, settings["device"], "float32")
    training.open_session = lambda *given, **named: build()  # type: ignore[assignment]  # it takes no model from a pool
    figures = _timed("train", {**settings, "data": str(root / "in"), "size": str(SIDES_PX[shape])})
    log = (Path(settings["output"]) / "training.jsonl").read_text().splitlines()
    return {**figures, "step s": median(json.loads(line)["seconds"] for line in log)}


def _timed(command: str, settings: Mapping[str, Any], build: Callable[[], DiffusionModel] | None = None) -> Row:
    """Run a job: seconds in all and by station, UNet calls and peak memory. Raises: what the job raises."""
    job = make_job(command, dict(settings))
    if build is not None and (_pool.model is None or _pool.key != model_key(job)):
        _pool.drop()
        _pool.model, _pool.key = build(), model_key(job)
    device = torch.device(job.settings()["device"])
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    report = run_job(job, silent, _pool)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return {
        "seconds": time.perf_counter() - started,
        "stations": json.dumps({name: round(value, 3) for name, value in report.seconds.items()}),
        "UNet calls": report.unet_calls,
        "peak MB": peak_memory_mb(device),
    }


def random_model(words: Path, shape: str, device: str, dtype: str) -> DiffusionModel:
    """A model of a published shape on the device, its weights drawn there; what it draws is noise."""
    configs = CONFIG_FOLDERS[shape]
    if not configs:
        return tiny_model(words)
    folder, precision = CONFIGS / configs, getattr(torch, dtype)
    tiny_tokenizer(words)
    tokenizers = [CLIPTokenizer.from_pretrained(words, model_max_length=77) for _ in range(2)]
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder, subfolder="unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(folder, subfolder="vae"))
        first = CLIPTextModel(CLIPTextConfig.from_pretrained(folder, subfolder="text_encoder"))
        second: Any = None
        if (folder / "text_encoder_2").is_dir():
            second = CLIPTextModelWithProjection(CLIPTextConfig.from_pretrained(folder, subfolder="text_encoder_2"))
    vae_dtype = vae_precision(vae.config, precision)
    for part, wanted in ((unet, precision), (vae, vae_dtype), (first, precision), (second, precision)):
        if part is not None:
            _fill(part, device, wanted)
    text: Any = OneEncoder(first, tokenizers[0])
    if second is not None:
        text = TwoEncoders(first, second, tokenizers[0], tokenizers[1], zeros_for_null=True)
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    schedule = Schedule.from_config({**config, "prediction_type": "epsilon"}, shape)
    return assemble(shape, unet, vae, text, schedule, torch.device(device), precision)


@torch.no_grad()
def _fill(part: torch.nn.Module, device: str, dtype: torch.dtype) -> None:
    """Small random matrices, norms that keep what they get; ids of positions in their order."""
    part.to_empty(device=device)
    part.to(dtype)
    for name, weight in part.named_parameters():
        if weight.ndim > 1:
            weight.normal_(std=0.02)
        else:
            weight.fill_(1.0 if name.endswith("weight") else 0.0)
    for name, buffer in part.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.shape[-1], device=buffer.device).expand_as(buffer))


def _picture(folder: Path, name: str, shape: str) -> Path:
    """A sample as large as the model's pictures, with a caption beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    path, side = folder / f"{name}.png", SIDES_PX[shape]
    Image.open(SAMPLES / f"{name}.png").convert("RGB").resize((side, side)).save(path)
    path.with_suffix(".txt").write_text("a red cake")
    return path
