"""The day a GPU is there: what works on it, how it agrees with the CPU, and what it costs at the true shapes.

    python tests/benchmarks/gpu.py [--device cuda] [--shapes sd15,sdxl] [--parts tests,sd15]
                                    [--steps 50] [--seconds 480] [-o gpu-report]

Nothing is downloaded. Three parts, each left out when the time is over, with a line that says so:
1. the tests marked `gpu`;
2. every command on `stickers` in float16 and bfloat16, beside the CPU's own float32: PSNR of what they make, seconds;
3. Stable Diffusion 1.5's and XL's true shapes with random weights: seconds and peak memory of null-text inversion by
   both solvers, nine frames, an edit, 80 drag iterations, and a training step by every gradient.
Writes gpu.json and gpu.md. `--shapes tiny --device cpu --steps 2` tries the script itself.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
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
from smoothtool.files.drawing.markdown import markdown_table
from smoothtool.files.storage.writing import write_json_atomic, write_text_atomic
from smoothtool.jobs import make_job
from smoothtool.types import silent
from smoothtool.weights.sample_pictures import SAMPLES

Row = dict[str, Any]
SHAPES = {"sd15": ("sd1", 512), "sdxl": ("sdxl", 1024), "tiny": ("", 32)}
GRADIENTS = ("central", "one-sided", "forward-variation", "double-backward")
FLOORS_S = {
    "nine frames, null-text by Adam": 3.1,
    "nine frames, null-text by Gauss-Newton": 1.3,
    "edit from a stored inversion": 0.1,
    "80 drag iterations": 0.18,
}
"""Seconds at 800 TFLOP/s for SD 1.5 at 512 px."""
STICKERS = {
    "invert": {"image": "samples:fox", "src": "a 3d fox", "inversion": "nti"},
    "edit": {"image": "samples:fox", "src": "a 3d fox", "trg": "a 3d cat"},
    "interpolate": {"images": ["samples:apple", "samples:pear"], "frames": 1},
    "drag": {
        "image": "samples:rose",
        "src": "a 3d rose",
        "point": "28,36:44,24",
        "method": "gooddrag",
        "lora_steps": 4,
        "iterations": 4,
    },
}


def main() -> int:
    options = _options()
    until = time.perf_counter() + options.seconds
    options.output.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"device": _device_name(options.device), "torch": torch.__version__}
    with tempfile.TemporaryDirectory(prefix="smoothtool-gpu-") as name:
        root = Path(name)
        os.environ["SMOOTHTOOL_CACHE"] = str(root / "cache")
        parts = {
            "tests": marked_tests(options.device, until),
            "stickers": stickers_rows(root / "stickers", options.device, options.steps, until),
            **{shape: shape_rows(root / shape, shape, options, until) for shape in options.shapes.split(",")},
        }
        for part in options.parts.split(",") if options.parts else parts:
            rows = parts[part]
            found[part] = []
            for row in rows:
                found[part].append(row)
                print(part, json.dumps(row), flush=True)
                write_json_atomic(options.output / "gpu.json", found)
    filled = {part: rows for part, rows in found.items() if isinstance(rows, list) and rows}
    tables = (f"## {part}\n\n{markdown_table(rows)}\n" for part, rows in filled.items())
    write_text_atomic(options.output / "gpu.md", f"# {found['device']}, torch {found['torch']}\n\n" + "\n".join(tables))
    print(options.output / "gpu.md")
    return int(any("error" in str(row["note"]) for rows in filled.values() for row in rows))


def marked_tests(device: str, until: float) -> Iterator[Row]:
    """The tests marked `gpu`; the suite may have none."""
    if device == "cpu":
        yield {"tests": "marked gpu", "note": "left out: this is a CPU"}
        return
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-m", "gpu", str(Path(__file__).parents[1])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(1, until - time.perf_counter()))
        last = (done.stdout.strip().splitlines() or ["no word"])[-1]
        yield {"tests": "marked gpu", "note": last if done.returncode in (0, 5) else f"error: {last}"}
    except subprocess.TimeoutExpired:
        yield {"tests": "marked gpu", "note": "left out: no time"}


def stickers_rows(root: Path, device: str, steps: int, until: float) -> Iterator[Row]:
    """Every command on the device beside the CPU's float32, from the same seed."""
    for command, settings in STICKERS.items():
        base = {**settings, "model": "stickers", "seed": 1, "steps": steps}
        truth = root / f"{command}-cpu"
        timed(command, {**base, "device": "cpu", "dtype": "float32", "output": truth}, ModelPool(), until)
        for dtype in ("float16", "bfloat16"):
            place = root / f"{command}-{dtype}"
            row = timed(command, {**base, "device": device, "dtype": dtype, "output": place}, ModelPool(), until)
            yield {"what": command, "dtype": dtype, "PSNR to the CPU dB": likeness(truth, place), **row}


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


def shape_rows(root: Path, shape: str, options: argparse.Namespace, until: float) -> Iterator[Row]:
    """Everything that takes long, at the shape of a published model; with random weights: only costs mean anything."""
    _, side = SHAPES[shape]
    root.mkdir(parents=True)
    dtype = "float32" if options.device == "cpu" else "float16"
    pictures = [str(_picture(root / "in" / f"{name}.png", name, side)) for name in ("apple", "pear")]
    base = {"model": f"shape {shape}", "device": options.device, "dtype": dtype, "steps": options.steps, "seed": 1}
    point = f"{side // 3},{side // 2}:{side // 2},{side // 2}"
    pair = {"images": pictures, "src": ["a red cake"], "frames": 9}
    one = {"image": pictures[0], "src": "a red cake"}
    asked: list[tuple[str, str, Mapping[str, Any]]] = [
        ("null-text by Adam", "invert", {**one, "solver": "adam"}),
        ("null-text by Gauss-Newton", "invert", {**one, "solver": "gauss-newton"}),
        ("nine frames, null-text by Adam", "interpolate", {**pair, "solver": "adam"}),
        ("nine frames, null-text by Gauss-Newton", "interpolate", {**pair, "solver": "gauss-newton"}),
        ("edit from a stored inversion", "edit", {**one, "trg": ["a blue cake"], "solver": "gauss-newton"}),
        (
            "80 drag iterations",
            "drag",
            {**one, "point": [point], "method": "dragdiffusion", "lora_steps": 0, "iterations": 80},
        ),
    ]
    pool = ModelPool()
    for name, command, settings in asked:
        job = {**base, **settings, "output": root / name.replace(" ", "-").replace(",", "")}
        row = timed(command, job, pool, until, lambda: random_model(root / "words", shape, options.device, dtype))
        yield {"what": name, **row, "floor s": FLOORS_S.get(name) if shape == "sd15" else None}
    build = partial(random_model, root / "words", shape, options.device, "float32")
    training.open_session = lambda *given, **named: build()  # type: ignore[assignment]  # it takes no model from a pool
    for gradient in GRADIENTS:
        for compiled in (False, True) if gradient != "double-backward" else (False,):
            settings = {
                "data": str(root / "in"),
                "max_steps": 3,
                "batch_size": 1,
                "gradient": gradient,
                "size": str(side),
            }
            place = root / f"train-{gradient}-{compiled}"
            job = {**base, **settings, "dtype": "float32", "compile": compiled, "output": place, "tracker": "none"}
            row = timed("train", job, ModelPool(), until)
            log = place / "training.jsonl"
            steps = [json.loads(line)["seconds"] for line in log.read_text().splitlines()] if log.is_file() else []
            label = f"training, {gradient}{', compiled' if compiled else ''}"
            yield {"what": label, **row, "step s": median(steps) if steps else None}


def timed(command: str, settings: Mapping[str, Any], pool: ModelPool, until: float, build: Any = None) -> Row:
    """Run a job: seconds by station, UNet calls and peak memory, or the sentence that it ended with."""
    if time.perf_counter() > until:
        return {"note": "left out: no time"}
    started = time.perf_counter()
    try:
        job = make_job(command, dict(settings))
        if build is not None and (pool.model is None or pool.key != model_key(job)):
            pool.drop()
            pool.model, pool.key = build(), model_key(job)
        device = torch.device(job.settings()["device"])
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        started = time.perf_counter()
        report = run_job(job, silent, pool)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    except Exception as error:  # a table with a hole says more than a traceback after eight minutes
        line = (str(error).strip().splitlines() or [""])[0]
        return {"seconds": time.perf_counter() - started, "note": f"error: {type(error).__name__}: {line[:160]}"}
    stations = {name: round(value, 3) for name, value in report.seconds.items()}
    return {
        "seconds": time.perf_counter() - started,
        "stations": json.dumps(stations),
        "UNet calls": report.unet_calls,
        "peak MB": peak_memory_mb(device),
        "note": "",
    }


def random_model(words: Path, shape: str, device: str, dtype: str) -> DiffusionModel:
    """A model of a published shape on the device, its weights drawn there; what it draws is noise."""
    configs, _ = SHAPES[shape]
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


def _picture(path: Path, name: str, side: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(SAMPLES / f"{name}.png").convert("RGB").resize((side, side)).save(path)
    path.with_suffix(".txt").write_text("a red cake")
    return path


def _device_name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", default="sd15,sdxl", help=f"with commas between: {', '.join(SHAPES)}")
    parser.add_argument("--parts", default="", help="tests, stickers and names of shapes; all by default")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu-report"))
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
