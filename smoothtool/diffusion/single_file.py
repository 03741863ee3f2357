"""Single-file checkpoints of Stable Diffusion 1.x, 2.x and XL in CompVis' key layout, as community sites publish them.

The weights are renamed by diffusers, from the configs that smoothtool ships; only safetensors are ever opened.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from smoothtool.diffusion.checkpoint import UNET, Checkpoint, open_checkpoint
from smoothtool.diffusion.conversion import convert_part
from smoothtool.diffusion.ddim import Schedule
from smoothtool.diffusion.economies import Economy
from smoothtool.diffusion.loading import assemble, choose_device, choose_dtype, vae_precision
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.parts import read_tokenizer
from smoothtool.diffusion.text import OneEncoder, PromptEncoder, TwoEncoders, added_conditions
from smoothtool.errors import ModelError, first_line, out_of_memory
from smoothtool.types import Conditioning
from smoothtool.weights.kinds import BY_CHANNELS, BY_TEXT_WIDTH, CONFIGS, HINT, refuse_distilled, takes_two_encoders

VAE = "first_stage_model."
TEXT, TEXT_1, TEXT_2 = "cond_stage_model.", "conditioner.embedders.0.", "conditioner.embedders.1."
PIXELS_PER_LATENT = 8
PROBE_SIDE = 32
"""Latents a side for the question of `prediction_type_of`: 256 px, small for any model, and quick on a CPU."""


@dataclass(frozen=True)
class TextPart:
    """A text encoder of a family, which no diffusers folder describes here.

    prefix     its weights' names begin so
    pad_token  fills prompts up: OpenAI's CLIP repeats the end, OpenCLIP takes token 0
    """

    prefix: str
    pad_token: str
    kind: type = CLIPTextModel


@dataclass(frozen=True)
class Family:
    """What the weights do not say.

    sample_size  latents a side in training, by prediction type: 2.1 is v at 768 px, 2.1-base epsilon at 512 px
    """

    configs: Path
    text: tuple[TextPart, ...]
    sample_size: dict[str, int]

    @property
    def parts(self) -> dict[str, str]:
        """What a whole checkpoint holds besides the UNet: the prefix of its weights, and its name."""
        return {VAE: "VAE", **dict(zip((part.prefix for part in self.text), TEXT_NAMES, strict=False))}


TEXT_NAMES = ("text encoder", "second text encoder")
END, ZERO = "<|endoftext|>", "!"
FAMILIES = {
    768: Family(CONFIGS / "sd1", (TextPart(TEXT, END),), {"epsilon": 64, "v_prediction": 64}),
    1024: Family(CONFIGS / "sd2", (TextPart(TEXT, ZERO),), {"epsilon": 64, "v_prediction": 96}),
    2048: Family(
        CONFIGS / "sdxl",
        (TextPart(TEXT_1, END), TextPart(TEXT_2, ZERO, CLIPTextModelWithProjection)),
        {"epsilon": 128, "v_prediction": 128},
    ),
}
"""By the width of the text that cross-attention takes."""
OTHERS_BY_KEY = (
    ("lora", "LoRA", "--lora with a base model"),
    ("control_model.", "ControlNet", HINT),
    ("joint_blocks.", "Stable Diffusion 3 checkpoint", HINT),
    ("double_blocks.", "FLUX checkpoint", HINT),
    ("single_transformer_blocks.", "FLUX checkpoint", HINT),
    ("down_blocks.", "single part of a diffusers model", "the whole diffusers folder"),
    (VAE, "VAE without its UNet", HINT),
)


def load_single_file(
    path: Path,
    name: str,
    tokenizer: Path | None,
    *,
    device: str = "auto",
    dtype: str = "auto",
    economies: Sequence[Economy] = (),
) -> DiffusionModel:
    """Load a checkpoint; never asks the network.

    tokenizer  folder of CLIP's vocab.json and merges.txt, which no checkpoint holds; None: not on this machine
    Raises: ModelError when the file is broken, a pickle, incomplete or of another architecture, or without tokenizer.
    """
    refuse_distilled(str(path))
    place = choose_device(device)
    precision = choose_dtype(dtype, place)
    with open_checkpoint(path, _empty_unet) as weights:
        try:
            family = _family_of(weights, name)
            if tokenizer is None:
                raise ModelError(
                    f"{name}: a single file has no tokenizer, and none is on this machine",
                    "smoothtool models pull openai/clip-vit-large-patch14 (1.5 MB)",
                )
            unet, vae, text = _read_parts(weights, family, tokenizer, precision, f"{name}: {path}")
            config = json.loads((family.configs / "scheduler" / "scheduler_config.json").read_text())
        except Exception as error:
            if isinstance(error, ModelError) or out_of_memory(error):
                raise
            raise ModelError(f"{name}: {path} cannot be loaded: {first_line(error)}", "another copy of it") from error
        velocity = weights.predicts_velocity
        if weights.zero_snr:
            config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    config["prediction_type"] = "v_prediction" if velocity else prediction_type_of(unet.to(place))
    unet.register_to_config(sample_size=family.sample_size[config["prediction_type"]])
    return assemble(name, unet, vae, text, Schedule.from_config(config, name), place, precision, economies)


@torch.no_grad()
def prediction_type_of(unet: UNet2DConditionModel) -> str:
    """`epsilon` or `v_prediction`, asked of the UNet itself: the weights of both have the same names and shapes.

    At the noisiest time z is nearly eps. A noise prediction gives it back, <out, z> / <z, z> = 1; a velocity
    sqrt(abar) eps - sqrt(1 - abar) x0 holds sqrt(abar) = 0.07 of it and a guess of the picture, unrelated to z.
    """
    shape = (1, int(unet.config.in_channels), PROBE_SIDE, PROBE_SIDE)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0), device="cpu").to(unet.device, unet.dtype)
    no_text = Conditioning(noise.new_zeros(1, 1, int(unet.config.cross_attention_dim)), _no_pooled(unet, noise))
    added = added_conditions(no_text, noise, PIXELS_PER_LATENT, unet.dtype)
    out = unet(noise, 999, encoder_hidden_states=no_text.prompt_embeds, added_cond_kwargs=added, return_dict=False)[0]
    slope = (out.float() * noise.float()).sum() / noise.float().square().sum()
    return "epsilon" if slope > 0.5 else "v_prediction"


def _no_pooled(unet: UNet2DConditionModel, noise: torch.Tensor) -> torch.Tensor | None:
    """[1, P] of zeros for a UNet that takes pooled text."""
    if not takes_two_encoders(unet.config):
        return None
    width = unet.config.projection_class_embeddings_input_dim - 6 * unet.config.addition_time_embed_dim
    return noise.new_zeros(1, int(width))


def _empty_unet(width: int) -> Any:
    """The UNet of the family with text of that width, without weights; None where there is no such family."""
    if width not in FAMILIES:
        return None
    config = UNet2DConditionModel.load_config(FAMILIES[width].configs, subfolder="unet")
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(config)


def _family_of(weights: Checkpoint, name: str) -> Family:
    """The family of an opened checkpoint, from its header.

    Raises: ModelError that names the kind when it is none that can be used.
    """
    keys = list(weights.keys())
    cross = next((key for key in keys if key.startswith(UNET) and key.endswith(".attn2.to_k.weight")), None)
    if cross is None or len(weights.shape(cross)) != 2:
        kind, hint = next(
            ((kind, hint) for part, kind, hint in OTHERS_BY_KEY if any(part in key for key in keys)),
            ("file of unknown layout", HINT),
        )
        raise ModelError(f"{name}: a {kind} cannot be used as a model", hint)
    width = weights.shape(cross)[1]
    known = BY_TEXT_WIDTH.get(width, f"model with text {width} wide")
    if width not in FAMILIES:
        raise ModelError(f"{name}: a {known} cannot be used", HINT)
    channels = weights.shape(f"{UNET}input_blocks.0.0.weight")[1]
    if channels != 4:
        purpose = BY_CHANNELS.get(channels, "another purpose")
        raise ModelError(f"{name}: a variant of {known} for {purpose} ({channels} input channels) cannot be used", HINT)
    parts = FAMILIES[width].parts
    missing = [what for prefix, what in parts.items() if not any(key.startswith(prefix) for key in keys)]
    if missing:
        raise ModelError(f"{name}: the file has no {' and no '.join(missing)}", "a full checkpoint of the model")
    return FAMILIES[width]


def _read_parts(
    weights: Checkpoint, family: Family, tokenizer: Path, dtype: torch.dtype, place: str
) -> tuple[UNet2DConditionModel, AutoencoderKL, PromptEncoder]:
    """Part after part, so that no more than one is held twice; EMA copies and the like are not read.

    Raises: ModelError when weights are missing or do not fit.
    """
    configs = family.configs
    unet = convert_part(UNet2DConditionModel, _tensors(weights, UNET), configs, "unet", dtype, place)
    vae_dtype = vae_precision(AutoencoderKL.load_config(configs, subfolder="vae"), dtype)
    vae = convert_part(AutoencoderKL, _tensors(weights, VAE), configs, "vae", vae_dtype, place)
    encoders: list[Any] = []
    tokenizers: list[Any] = []
    for part, folder in zip(family.text, ("text_encoder", "text_encoder_2"), strict=False):
        encoders.append(convert_part(part.kind, _tensors(weights, part.prefix), configs, folder, dtype, place))
        limit = encoders[-1].config.max_position_embeddings
        tokenizers.append(read_tokenizer(tokenizer, "", place, pad_token=part.pad_token, model_max_length=limit))
    if len(encoders) == 1:
        return unet, vae, OneEncoder(encoders[0], tokenizers[0])
    return unet, vae, TwoEncoders(encoders[0], encoders[1], tokenizers[0], tokenizers[1], zeros_for_null=True)


def _tensors(weights: Checkpoint, prefix: str) -> dict[str, torch.Tensor]:
    return {key: weights.get_tensor(key) for key in weights.keys() if key.startswith(prefix)}  # noqa: SIM118 - no dict
