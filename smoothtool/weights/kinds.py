"""Which kind of model a diffusers folder holds, from its small files: asked before a download and before a load."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smoothtool.errors import ModelError
from smoothtool.readers.fields import read_fields

SD1, SD2, SDXL = "Stable Diffusion 1.x", "Stable Diffusion 2.x", "Stable Diffusion XL"
XL_TEXT_WIDTH = 2048
BY_TEXT_WIDTH = {768: SD1, 1024: SD2, XL_TEXT_WIDTH: SDXL, 1280: f"{SDXL} refiner"}
"""Families by the width of the text that their cross-attention takes."""
OTHERS = (
    ("StableDiffusion3", "Stable Diffusion 3"),
    ("Flux", "FLUX"),
    ("PixArt", "PixArt"),
    ("Kandinsky", "Kandinsky"),
    ("StableCascade", "Stable Cascade"),
    ("Wuerstchen", "Wuerstchen"),
    ("LatentConsistency", "latent consistency"),
    ("IF", "DeepFloyd IF"),
    ("AltDiffusion", "AltDiffusion"),
    ("QwenImage", "Qwen-Image"),
    ("Sana", "Sana"),
    ("StableVideo", "Stable Video Diffusion"),
    ("Lumina", "Lumina"),
    ("HunyuanDiT", "Hunyuan-DiT"),
    ("AuraFlow", "AuraFlow"),
    ("StableUnCLIP", "Stable unCLIP"),
)
"""Pipelines by how their class begins, and what people call them."""
BY_CHANNELS = {9: "in-painting", 8: "instruct-pix2pix", 5: "depth", 7: "upscaling"}
"""What a UNet is for that takes more than the four channels of the latents."""
ONE_ENCODER, TWO_ENCODERS = (
    ("text_encoder", "tokenizer"),
    ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"),
)
PART_NAMES = {
    "text_encoder": "text encoder",
    "text_encoder_2": "second text encoder",
    "tokenizer": "tokenizer",
    "tokenizer_2": "second tokenizer",
    "unet": "UNet",
    "vae": "VAE",
}
CONFIGS = Path(__file__).parent / "configs"
"""Configs of the families, for what single files do not say."""
SMALL_FILES = ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json")
"""The small files of a diffusers folder that say of which kind it is."""
HINT = "an SD 1.x, SD 2.x or SDXL base model, for example sd15 or sdxl"
_DISTILLED = re.compile(r"(?<![a-z])(turbo|lightning|hyper|lcm|dmd2?|schnell)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Described:
    """What the small files of a diffusers folder say.

    index, unet, scheduler  the contents of model_index.json and of the two parts' configs
    parts                   names of the folders that are there
    """

    index: Mapping[str, Any]
    unet: Mapping[str, Any]
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    parts: Collection[str] = ()


def check_kind(name: str, described: Described) -> str:
    """The family of a model that smoothtool can use, for example "Stable Diffusion XL".

    Raises: ModelError that says which kind it is, when it is another one or a part is missing.
    """
    refuse_pipeline(name, str(described.index.get("_class_name", "")))
    other = _other_kind(described)
    if other:
        raise ModelError(f"{name}: {other} cannot be used", HINT)
    word = distilled_word(name)
    if word or _is_turbo(described):
        raise _distilled(name, word or "turbo")
    two = takes_two_encoders(described.unet)
    missing = [part for part in ("unet", "vae", *(TWO_ENCODERS if two else ONE_ENCODER)) if part not in described.parts]
    if missing:
        what = " and no ".join(PART_NAMES[part] for part in missing)
        raise ModelError(f"{name}: the model has no {what} (no folder {missing[0]})", "a complete copy of it")
    return SDXL if two else BY_TEXT_WIDTH.get(_width(described.unet), "Stable Diffusion")


def describe(folder: Path, parts: Collection[str]) -> Described:
    """A diffusers folder, from its small files, those that it has.

    Raises: ModelError when one cannot be read.
    """
    index, unet, scheduler = (
        read_fields(folder / path, fault=ModelError, hint="download the model again").values
        if (folder / path).is_file()
        else {}
        for path in SMALL_FILES
    )
    return Described(index, unet, scheduler, parts)


def refuse_pipeline(name: str, pipeline: str) -> None:
    """Raises: ModelError for the class of a pipeline that is no Stable Diffusion; an empty one says nothing."""
    for start, known in OTHERS:
        if pipeline.startswith(start):
            raise ModelError(f"{name}: a {known} model cannot be used", HINT)


def takes_two_encoders(unet: Mapping[str, Any]) -> bool:
    """Whether a UNet of this config takes the pooled text and the picture's size too, as Stable Diffusion XL's is."""
    return unet.get("addition_embed_type") == "text_time"


def distilled_word(name: str) -> str:
    """The word in the last part of a name that says the model was distilled to few steps, or an empty string."""
    found = _DISTILLED.search(re.split(r"[\\/]", name)[-1])
    return found[0] if found else ""


def refuse_distilled(name: str) -> None:
    """Raises: ModelError for a model whose name says that it was distilled to few steps."""
    word = distilled_word(name)
    if word:
        raise _distilled(name, word)


def _distilled(name: str, word: str) -> ModelError:
    return ModelError(
        f"{name}: a {word} model is distilled to few steps of another schedule, which cannot be inverted",
        "the base model that it was made from",
    )


def _other_kind(described: Described) -> str:
    """The kind, with its article, of what is no text-to-image Stable Diffusion; else an empty string."""
    index, unet = described.index, described.unet
    pipeline = index.get("_class_name", "")
    named = index.get("unet")
    if not (isinstance(named, list) and named[1:] == ["UNet2DConditionModel"]):
        return f"a {pipeline or 'model'} without UNet2DConditionModel"
    family = SDXL if takes_two_encoders(unet) else "Stable Diffusion"
    channels = unet.get("in_channels", 4)
    if isinstance(channels, int) and channels != 4:
        purpose = BY_CHANNELS.get(channels)
        return f"a variant of {family} for {purpose}" if purpose else f"a UNet of {channels} input channels"
    if takes_two_encoders(unet) and (index.get("requires_aesthetics_score") or _width(unet) == 1280):
        return f"the refiner of {SDXL}"
    if unet.get("time_cond_proj_dim") or described.scheduler.get("_class_name") == "LCMScheduler":
        return "a latent consistency model, distilled to few steps,"
    return ""


def _is_turbo(described: Described) -> bool:
    """A noise prediction sampled from the last time on: how the turbo models are published, and no base model is."""
    scheduler = described.scheduler
    return (
        str(scheduler.get("_class_name", "")).startswith("Euler")
        and scheduler.get("timestep_spacing") == "trailing"
        and scheduler.get("prediction_type", "epsilon") == "epsilon"
        and not scheduler.get("rescale_betas_zero_snr")
    )


def _width(unet: Mapping[str, Any]) -> int:
    width = unet.get("cross_attention_dim")
    return width if isinstance(width, int) else 0
