"""From a diffusers folder to a `DiffusionModel`: check, load, freeze, move to the device."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from smoothtool.diffusion.ddim import Schedule
from smoothtool.diffusion.economies import Economies, Economy
from smoothtool.diffusion.feed_forward import keep_less
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.parts import check_channels, check_words, read_part, read_schedule, read_tokenizer
from smoothtool.diffusion.text import OneEncoder, PromptEncoder, TwoEncoders
from smoothtool.errors import ModelError, out_of_memory
from smoothtool.readers.fields import Fields, read_fields
from smoothtool.weights.kinds import HINT, SDXL, check_kind, describe


def load_model(
    folder: Path,
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    economies: Sequence[Economy] = (),
) -> DiffusionModel:
    """Load a diffusers folder without importing diffusers' pipelines (they cost seconds).

    Raises: ModelError when a part is missing, broken, a pickle, or of another architecture.
    """
    diffusers.utils.logging.disable_progress_bar()  # bars belong to the caller
    transformers.utils.logging.disable_progress_bar()
    place = choose_device(device)
    precision = choose_dtype(dtype, place)
    family = check_folder(folder, name)
    unet = read_part(UNet2DConditionModel, folder, "unet", name, precision)
    vae_dtype = vae_precision(_config(folder / "vae" / "config.json").values, precision)
    vae = read_part(AutoencoderKL, folder, "vae", name, vae_dtype)
    text = _read_text(folder, family, name, precision)
    schedule = read_schedule(folder / "scheduler" / "scheduler_config.json")
    return assemble(name, unet, vae, text, schedule, place, precision, economies)


def _read_text(folder: Path, family: str, name: str, dtype: torch.dtype) -> PromptEncoder:
    encoder = read_part(CLIPTextModel, folder, "text_encoder", name, dtype)
    tokenizer = read_tokenizer(folder, "tokenizer", name)
    if family != SDXL:
        return OneEncoder(encoder, tokenizer)
    second = read_part(CLIPTextModelWithProjection, folder, "text_encoder_2", name, dtype)
    zeros = _config(folder / "model_index.json").truth("force_zeros_for_empty_prompt", True)
    return TwoEncoders(encoder, second, tokenizer, read_tokenizer(folder, "tokenizer_2", name), zeros)


def vae_precision(config: Mapping[str, Any], dtype: torch.dtype) -> torch.dtype:
    """float32 for a VAE whose own config says `force_upcast`: SDXL's first one overflows in float16.

    diffusers takes the key for set where a config has none, as those of SD 1.x and 2.x do, whose VAEs need no more.
    """
    return torch.float32 if config.get("force_upcast") else dtype


def assemble(
    name: str,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text: PromptEncoder,
    schedule: Schedule,
    device: torch.device,
    dtype: torch.dtype,
    economies: Sequence[Economy] = (),
) -> DiffusionModel:
    """Freeze the parts, move them to the device and take their fingerprint."""
    check_channels(name, unet, vae)
    for encoder, tokenizer in zip(text.encoders.values(), text.tokenizers.values(), strict=True):
        check_words(name, encoder.config, tokenizer)
    if schedule.prediction_type not in ("epsilon", "v_prediction"):
        raise ModelError(f"{name}: prediction type {schedule.prediction_type} is not supported", HINT)
    digest = hashlib.sha256()
    parts: tuple[torch.nn.Module, ...] = (unet, vae, *text.encoders.values())
    for part in parts:
        _digest_weights(part, digest)
        part.requires_grad_(False)
        part.eval()
    keep_less(unet)
    if device.type == "cuda":
        unet.to(memory_format=torch.channels_last)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    digest.update(json.dumps({**schedule.config, **text.settings}, sort_keys=True, default=str).encode())
    own = Economies({"unet": unet, "vae": vae, **text.encoders}, device)
    for economy in economies:
        own.use(economy)
    _place(own)
    return DiffusionModel(name, unet, vae, text, schedule, device, dtype, digest.hexdigest()[:16], own)


def _place(own: Economies) -> None:
    """The parts on their device; where they do not fit together, they come when they are used."""
    if "offload" in own.active:
        return
    try:
        for part in own.parts.values():
            part.to(own.device)
        return
    except (RuntimeError, MemoryError) as error:
        if not (out_of_memory(error) and own.left(["offload"])):
            raise
    own.use_next(["offload"])


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


def computes_in(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the device has instructions for the dtype: on a CPU without, float16 can take a hundred times as long."""
    if device.type != "cpu" or dtype == torch.float32:
        return True
    ask = "_is_mkldnn_fp16_supported" if dtype == torch.float16 else "_is_mkldnn_bf16_supported"
    return bool(torch.backends.mkldnn.is_available() and getattr(torch.ops.mkldnn, ask)())


def check_folder(folder: Path, name: str) -> str:
    """The family of the model in a diffusers folder, from its small files.

    Raises: ModelError when it is of a kind that cannot be used, or is no model.
    """
    if not (folder / "model_index.json").is_file():
        raise ModelError(f"{name}: {folder} is not a diffusers folder (no model_index.json)", "smoothtool models list")
    return check_kind(name, describe(folder, [part.name for part in folder.iterdir() if part.is_dir()]))


def _config(path: Path) -> Fields:
    """A JSON object. Raises: ModelError."""
    return read_fields(path, fault=ModelError, hint="download the model again")


def _digest_weights(module: torch.nn.Module, digest: Any) -> None:
    """Names, shapes and a strided sample of every weight as float16: quick, and blind to storage precision."""
    for key, value in sorted(module.state_dict().items()):
        flat = value.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 64)].to("cpu", torch.float16)
        digest.update(f"{key}{tuple(value.shape)}".encode())
        digest.update(sample.contiguous().view(torch.uint8).numpy().tobytes() if sample.numel() else b"")
