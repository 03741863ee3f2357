"""Put the trained parts together as an ordinary diffusers folder in float16 safetensors."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from smoothtool.diffusion.saving import spell_for_every_version
from smoothtool.files.storage.writing import atomic_path, write_json_atomic
from smoothtool.stickers.making.clip import build_clip
from smoothtool.stickers.making.latents import trained_vae
from smoothtool.stickers.making.tokenizer import load_tokenizer
from smoothtool.stickers.making.unet import SCHEDULER, Denoiser, build_text_encoder, build_unet, trained_text_encoder

FOLDER = Path(__file__).parents[2] / "weights" / "stickers"
MAX_SHARD = "15MB"


def trained_denoiser(work: Path, tokenizer: CLIPTokenizer) -> Denoiser:
    """The finished UNet where there is one, else the averaged weights of the one in training; and its text encoder.

    At the end of a falling rate the last weights are the best: their average still holds what was before the fall.
    """
    finished = work / "unet-decayed.pt"
    path, kind = (finished, "model") if finished.exists() else (work / "unet.pt", "averaged")
    model = Denoiser(build_unet(), build_text_encoder(tokenizer))
    model.load_state_dict(torch.load(path, weights_only=True)[kind])
    model.text_encoder = trained_text_encoder(work, tokenizer)
    return model.eval()


def pack(work: Path, folder: Path = FOLDER) -> None:
    """Write the model folder; the tiny CLIP goes along as `clip/` when it is trained, else the folder's own stays."""
    tokenizer = load_tokenizer(work)
    denoiser = trained_denoiser(work, tokenizer)
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.rmtree(folder / part, ignore_errors=True)
    denoiser.unet.half().save_pretrained(folder / "unet", max_shard_size=MAX_SHARD)
    denoiser.text_encoder.half().save_pretrained(folder / "text_encoder")
    spell_for_every_version(folder / "text_encoder")
    trained_vae(work).half().save_pretrained(folder / "vae")
    shutil.copytree(work / "tokenizer", folder / "tokenizer")
    if (work / "clip.pt").exists():
        clip = build_clip(denoiser.text_encoder.float())
        clip.load_state_dict(torch.load(work / "clip.pt", weights_only=True)["averaged"])
        shutil.rmtree(folder / "clip", ignore_errors=True)
        clip.half().save_pretrained(folder / "clip")
        shutil.copytree(work / "tokenizer", folder / "clip", dirs_exist_ok=True)
    (folder / "scheduler").mkdir()
    write_json_atomic(folder / "scheduler" / "scheduler_config.json", SCHEDULER)
    index = {
        "_class_name": "StableDiffusionPipeline",
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
        "safety_checker": [None, None],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    write_json_atomic(folder / "model_index.json", index)


def unpack(work: Path, folder: Path = FOLDER) -> None:
    """Prepare an empty working folder from a model folder: its VAE and tokenizer fix what latents and words mean.

    `unet --start FOLDER` then goes on from its UNet, and `decoder` from its decoder.
    """
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    work.mkdir(parents=True, exist_ok=True)
    with atomic_path(work / "vae-normalised.pt") as temporary:
        torch.save(vae.state_dict(), temporary)
    shutil.copytree(folder / "tokenizer", work / "tokenizer", dirs_exist_ok=True)
