"""Single-file checkpoints of Stable Diffusion 1.x and 2.x in CompVis' key layout, as community sites publish them.

The weights are renamed by diffusers, from the configs that smoothtool ships; only safetensors are ever opened.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import create_diffusers_clip_model_from_ldm
from safetensors import SafetensorError, safe_open
from transformers import CLIPTextModel, CLIPTokenizer

from smoothtool.diffusion.ddim import Schedule
from smoothtool.diffusion.loading import assemble, choose_device, choose_dtype
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import ModelError

UNET, VAE, TEXT = "model.diffusion_model.", "first_stage_model.", "cond_stage_model."
PARTS = {VAE: "VAE", TEXT: "text encoder"}
CONFIGS = Path(__file__).parents[1] / "weights" / "configs"
SUPPORTED = "an SD 1.x or 2.x model, for example sd15"
PROBE_SIDE = 32
"""Latents a side for the question of `prediction_type_of`: 256 px, small for any model, and quick on a CPU."""


@dataclass(frozen=True)
class Family:
    """What the weights do not say.

    pad_token    fills prompts up: OpenAI's CLIP repeats the end, OpenCLIP takes token 0
    sample_size  latents a side in training, by prediction type: 2.1 is v at 768 px, 2.1-base epsilon at 512 px
    """

    configs: Path
    pad_token: str
    sample_size: dict[str, int]


FAMILIES = {
    768: Family(CONFIGS / "sd1", "<|endoftext|>", {"epsilon": 64, "v_prediction": 64}),
    1024: Family(CONFIGS / "sd2", "!", {"epsilon": 64, "v_prediction": 96}),
}
"""By the width of the text that cross-attention takes."""
OTHERS_BY_WIDTH = {2048: "Stable Diffusion XL", 1280: "Stable Diffusion XL refiner"}
OTHERS_BY_KEY = (
    ("lora", "LoRA", "--lora with a base model"),
    ("control_model.", "ControlNet", SUPPORTED),
    ("joint_blocks.", "Stable Diffusion 3", SUPPORTED),
    ("double_blocks.", "Flux", SUPPORTED),
    ("down_blocks.", "single part of a diffusers model", "the whole diffusers folder"),
    (VAE, "VAE without its UNet", SUPPORTED),
)


def load_single_file(
    path: Path, name: str, tokenizer: Path | None, *, device: str = "auto", dtype: str = "auto"
) -> DiffusionModel:
    """Load a checkpoint; never asks the network.

    tokenizer  folder of CLIP's vocab.json and merges.txt, which no checkpoint holds; None: not on this machine
    Raises: ModelError when the file is broken, a pickle, incomplete or of another architecture, or without tokenizer.
    """
    place = choose_device(device)
    precision = choose_dtype(dtype, place)
    with _open(path, name) as weights:
        try:
            family = _family_of(weights, name)
            if tokenizer is None:
                raise ModelError(
                    f"{name}: a single file has no tokenizer, and none is on this machine",
                    "smoothtool models pull openai/clip-vit-large-patch14 (1.5 MB)",
                )
            unet, vae, text_encoder = _read_parts(weights, family.configs, precision)
            config = json.loads((family.configs / "scheduler" / "scheduler_config.json").read_text())
            words = CLIPTokenizer.from_pretrained(
                tokenizer, local_files_only=True, pad_token=family.pad_token,
                model_max_length=text_encoder.config.max_position_embeddings,
            )  # fmt: skip
        except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
            first_line = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ModelError(f"{name}: {path} cannot be loaded: {first_line}", "another copy of it") from error
    config["prediction_type"] = prediction_type_of(unet.to(place))
    unet.register_to_config(sample_size=family.sample_size[config["prediction_type"]])
    return assemble(name, unet, vae, text_encoder, words, Schedule.from_config(config), place, precision)


@torch.no_grad()
def prediction_type_of(unet: UNet2DConditionModel) -> str:
    """`epsilon` or `v_prediction`, asked of the UNet itself: the weights of both have the same names and shapes.

    At the noisiest time z is nearly eps. A noise prediction gives it back, <out, z> / <z, z> = 1; a velocity
    sqrt(abar) eps - sqrt(1 - abar) x0 holds sqrt(abar) = 0.07 of it and a guess of the picture, unrelated to z.
    """
    shape = (1, int(unet.config.in_channels), PROBE_SIDE, PROBE_SIDE)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(unet.device, unet.dtype)
    no_text = noise.new_zeros(1, 1, int(unet.config.cross_attention_dim))
    out = unet(noise, 999, encoder_hidden_states=no_text, return_dict=False)[0]
    slope = (out.float() * noise.float()).sum() / noise.float().square().sum()
    return "epsilon" if slope > 0.5 else "v_prediction"


def _open(path: Path, name: str) -> Any:
    """Reads the header alone.

    Raises: ModelError for anything that is not a whole safetensors file; nothing in it is run.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
        return safe_open(path, framework="pt")
    except OSError as error:
        raise ModelError(f"{name}: {path} cannot be read: {error.strerror}", "check the path") from error
    except SafetensorError as error:
        if start[:1] == b"\x80" or start == b"PK\x03\x04":  # pickle protocol 2 and up, and torch's zip of pickles
            raise ModelError(
                f"{name}: {path} is a pickle, which can run code when it is opened, and is refused",
                "a true .safetensors file",
            ) from error
        raise ModelError(
            f"{name}: {path} is damaged, or no safetensors file ({error})", "another copy of it"
        ) from error


def _family_of(weights: Any, name: str) -> Family:
    """The family of an opened checkpoint, from its header.

    Raises: ModelError that names the kind when it is none that can be used.
    """
    keys = list(weights.keys())
    cross = next((key for key in keys if key.startswith(UNET) and key.endswith(".attn2.to_k.weight")), None)
    if cross is None:
        kind, hint = next(
            ((kind, hint) for part, kind, hint in OTHERS_BY_KEY if any(part in key for key in keys)),
            ("file of unknown layout", SUPPORTED),
        )
        raise ModelError(f"{name}: a {kind} cannot be used as a model", hint)
    width = int(weights.get_slice(cross).get_shape()[1])
    if width not in FAMILIES:
        kind = OTHERS_BY_WIDTH.get(width, f"model with text {width} wide")
        raise ModelError(f"{name}: a {kind} is not supported yet", SUPPORTED)
    channels = int(weights.get_slice(f"{UNET}input_blocks.0.0.weight").get_shape()[1])
    if channels != 4:
        raise ModelError(
            f"{name}: a UNet of {channels} input channels (inpainting or the like) is not supported", SUPPORTED
        )
    missing = [what for prefix, what in PARTS.items() if not any(key.startswith(prefix) for key in keys)]
    if missing:
        raise ModelError(f"{name}: the file has no {' and no '.join(missing)}", "a full checkpoint of the model")
    return FAMILIES[width]


def _read_parts(
    weights: Any, configs: Path, dtype: torch.dtype
) -> tuple[UNet2DConditionModel, AutoencoderKL, CLIPTextModel]:
    """Part after part, so that no more than one is held twice; EMA copies and the like are not read.

    Raises: RuntimeError when weights are missing, ValueError when they do not fit.
    """
    options: dict[str, Any] = {"config": str(configs), "local_files_only": True, "torch_dtype": dtype}
    parts = (
        UNet2DConditionModel.from_single_file(_tensors(weights, UNET), subfolder="unet", **options),
        AutoencoderKL.from_single_file(_tensors(weights, VAE), subfolder="vae", **options),
        create_diffusers_clip_model_from_ldm(
            CLIPTextModel, _tensors(weights, TEXT), subfolder="text_encoder", **options
        ),
    )
    missing = [key for part in parts for key, value in part.named_parameters() if value.is_meta]
    if missing:
        raise RuntimeError(f"{len(missing)} weights are missing, {missing[0]} first")
    return parts


def _tensors(weights: Any, prefix: str) -> dict[str, torch.Tensor]:
    return {key: weights.get_tensor(key) for key in weights.keys() if key.startswith(prefix)}  # noqa: SIM118 - not a dict
