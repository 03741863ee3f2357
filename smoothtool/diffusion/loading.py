"""From a diffusers folder to a `DiffusionModel`: check, load, freeze, move to the device."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from smoothtool.diffusion.ddim import Schedule
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.parts import check_channels, check_words, read_part, read_schedule, read_tokenizer
from smoothtool.errors import ModelError
from smoothtool.readers.fields import read_fields, shown


def load_model(
    folder: Path, name: str, *, device: str = "auto", dtype: str = "auto", variant: str | None = None
) -> DiffusionModel:
    """Load a diffusers folder without importing diffusers' pipelines (they cost seconds).

    Raises: ModelError when a part is missing, broken, a pickle, or of another architecture.
    """
    diffusers.utils.logging.disable_progress_bar()  # bars belong to the caller
    transformers.utils.logging.disable_progress_bar()
    place = choose_device(device)
    precision = choose_dtype(dtype, place)
    _check_folder(folder, name)
    unet = read_part(UNet2DConditionModel, folder, "unet", name, precision, variant)
    vae = read_part(AutoencoderKL, folder, "vae", name, precision, variant)
    text_encoder = read_part(CLIPTextModel, folder, "text_encoder", name, precision, variant)
    tokenizer = read_tokenizer(folder, "tokenizer", name)
    schedule = read_schedule(folder / "scheduler" / "scheduler_config.json")
    return assemble(name, unet, vae, text_encoder, tokenizer, schedule, place, precision)


def assemble(
    name: str,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    schedule: Schedule,
    device: torch.device,
    dtype: torch.dtype,
) -> DiffusionModel:
    """Freeze the parts, move them to the device and take their fingerprint."""
    check_channels(name, unet, vae)
    check_words(name, text_encoder.config, tokenizer)
    if schedule.prediction_type not in ("epsilon", "v_prediction"):
        raise ModelError(
            f"{name}: prediction type {schedule.prediction_type} is not supported", "an SD 1.x or 2.x model"
        )
    digest = hashlib.sha256()
    parts: tuple[torch.nn.Module, ...] = (unet, vae, text_encoder)
    for part in parts:
        _digest_weights(part, digest)
        part.requires_grad_(False)
        part.eval()
        part.to(device)
    if device.type == "cuda":
        unet.to(memory_format=torch.channels_last)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    digest.update(json.dumps(schedule.config, sort_keys=True, default=str).encode())
    return DiffusionModel(name, unet, vae, text_encoder, tokenizer, schedule, device, dtype, digest.hexdigest()[:16])


def choose_device(device: str) -> torch.device:
    """`auto`: CUDA, then MPS, then CPU.

    Raises: ModelError when the device that was asked for is not there.
    """
    if device == "auto":
        best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        return torch.device(best)
    missing = (device.startswith("cuda") and not torch.cuda.is_available()) or (
        device.startswith("mps") and not torch.backends.mps.is_available()
    )
    if missing:
        raise ModelError(f"--device {device}: this machine has none that torch can use", "--device cpu")
    return torch.device(device)


def choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto`: float32 on the CPU, float16 elsewhere."""
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.float16
    return {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}[dtype]


def _check_folder(folder: Path, name: str) -> None:
    index = folder / "model_index.json"
    if not index.is_file():
        raise ModelError(f"{name}: {folder} is not a diffusers folder (no model_index.json)", "smoothtool models list")
    parts = read_fields(index, fault=ModelError, hint="download the model again")
    unet = parts.values.get("unet")
    if "text_encoder_2" in parts or not (isinstance(unet, list) and unet[1:] == ["UNet2DConditionModel"]):
        kind = shown(parts.values.get("_class_name") or "model of unknown kind")
        raise ModelError(f"{name}: a {kind} is not supported yet", "an SD 1.x or 2.x model, for example sd15")


def _digest_weights(module: torch.nn.Module, digest: Any) -> None:
    """Names, shapes and a strided sample of every weight as float16: quick, and blind to storage precision."""
    for key, value in sorted(module.state_dict().items()):
        flat = value.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 64)].to("cpu", torch.float16)
        digest.update(f"{key}{tuple(value.shape)}".encode())
        digest.update(sample.contiguous().view(torch.uint8).numpy().tobytes() if sample.numel() else b"")
