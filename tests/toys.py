"""Small models with known truth: a tiny random Stable Diffusion, and closed-form denoisers that stand in its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from smoothtool.diffusion.ddim import Schedule
from smoothtool.diffusion.loading import assemble
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.text import OneEncoder, TwoEncoders

SD_SCHEDULE = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "clip_sample": False,
    "timestep_spacing": "leading",
    "prediction_type": "epsilon",
}


def tiny_tokenizer(folder: Path) -> CLIPTokenizer:
    """Letters and a few words, 16 tokens at most; any lower-case English text works."""
    words = ["a", "cat", "dog", "fox", "cake", "with", "on", "red", "blue", "and"]
    merges = []
    for word in words:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges.append(f"{parts[0]} {parts[1]}")
            parts = [parts[0] + parts[1], *parts[2:]]
    letters = [chr(c) for c in range(33, 127)]
    tokens = [*letters, *(f"{c}</w>" for c in letters), *("".join(m.split()) for m in merges)]
    tokens = [*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 16, "pad_token": "<|endoftext|>"})
    )
    return CLIPTokenizer.from_pretrained(folder)


def tiny_clip(folder: Path) -> Path:
    """A random CLIP for pictures of 32 px and the tokenizer's words, saved; the folder."""
    tokenizer = tiny_tokenizer(folder)
    torch.manual_seed(0)
    shared = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {
        **shared,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 16,
        "projection_dim": 8,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {**shared, "image_size": 32, "patch_size": 8, "projection_dim": 8}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    return folder


def tiny_unet(seed: int = 0) -> UNet2DConditionModel:
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        block_out_channels=(8, 16, 16),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    )


def tiny_model(folder: Path, seed: int = 0, prediction_type: str = "epsilon") -> DiffusionModel:
    """A random Stable Diffusion of 32 px pictures and 4 x 16 x 16 latents, built offline in a blink."""
    tokenizer = tiny_tokenizer(folder)
    unet, vae = tiny_unet(seed), tiny_vae()
    text = OneEncoder(CLIPTextModel(_text_config(tokenizer, 16)), tokenizer)
    schedule = Schedule.from_config({**SD_SCHEDULE, "prediction_type": prediction_type})
    return assemble("tiny", unet, vae, text, schedule, torch.device("cpu"), torch.float32)


def tiny_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        sample_size=32,
    )


def _text_config(tokenizer: CLIPTokenizer, width: int, **others: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **others,
    )


def tiny_xl_unet(seed: int = 0) -> UNet2DConditionModel:
    """SDXL in small: no attention on the finest level, several inner blocks on the deepest, text 16 + 24 wide."""
    torch.manual_seed(seed)
    return UNet2DConditionModel(
        block_out_channels=(8, 16, 16),
        layers_per_block=2,
        cross_attention_dim=40,
        attention_head_dim=(2, 2, 4),
        norm_num_groups=4,
        sample_size=16,
        in_channels=4,
        out_channels=4,
        use_linear_projection=True,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 12,
    )


def tiny_xl_model(folder: Path, seed: int = 0, zeros_for_null: bool = True) -> DiffusionModel:
    """A random Stable Diffusion XL of 32 px pictures: two text encoders, whose tokenizers pad differently."""
    tokenizer = tiny_tokenizer(folder)
    tiny_tokenizer(folder / "second")
    second = CLIPTokenizer.from_pretrained(folder / "second", pad_token="!")
    unet, vae = tiny_xl_unet(seed), tiny_vae()
    text = TwoEncoders(
        CLIPTextModel(_text_config(tokenizer, 16)),
        CLIPTextModelWithProjection(_text_config(second, 24, projection_dim=12, hidden_act="gelu")),
        tokenizer,
        second,
        zeros_for_null,
    )
    schedule = Schedule.from_config(SD_SCHEDULE)
    return assemble("tiny-xl", unet, vae, text, schedule, torch.device("cpu"), torch.float32)


def bare_text_weights(encoder: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A text encoder's weights as transformers names them since 5.6; before, all began by text_model."""
    return {name.removeprefix("text_model."): value for name, value in encoder.state_dict().items()}


def layer_of(part: torch.nn.Module, name: str) -> torch.nn.Module:
    """The layer of this name, whichever of the two namings a text encoder has."""
    modules = dict(part.named_modules())
    return modules.get(name) or modules.get(f"text_model.{name}") or modules[name.removeprefix("text_model.")]
