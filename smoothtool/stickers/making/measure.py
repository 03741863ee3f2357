"""Measure the packed model and its smooth LoRA on held-out scenes, and write its card and sheets of samples."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from transformers import CLIPModel, CLIPTokenizer

from smoothtool.diffusion.loading import load_model
from smoothtool.diffusion.lora import load_lora
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import constant, denoise
from smoothtool.files.storage.writing import write_picture
from smoothtool.methods.inversion.ddim import ddim_inversion_steps, trajectory_of
from smoothtool.methods.inversion.null_text import adam_solver, gauss_newton_solver, null_text_steps
from smoothtool.metrics.bootstrap import paired_difference
from smoothtool.metrics.clip_score import load_clip
from smoothtool.metrics.reconstruction import psnr_db
from smoothtool.stickers.making.card import write_card
from smoothtool.stickers.making.clip import clip_accuracy
from smoothtool.stickers.making.held_out import SAMPLES, STEPS, held_out_scenes, sample, sample_sheet
from smoothtool.stickers.making.judge import accuracy, load_judge
from smoothtool.stickers.making.pack import FOLDER
from smoothtool.stickers.world.pool import to_pixel_values
from smoothtool.stickers.world.scenes import Scene, caption, render
from smoothtool.weights.models import MODEL_DEFAULTS

INVERSIONS, VAE_SCENES = 4, 200


def measure(work: Path, folder: Path = FOLDER) -> None:
    """All figures of the card. Scenes, captions and noises are the same every time."""
    model = load_model(folder, "stickers", device="cpu")
    judge, guidance = load_judge(work), default_guidance(folder)
    singles = list(held_out_scenes(SAMPLES, items=1))
    samples = sample(model, [caption(scene) for scene in singles], guidance)
    scenes = list(held_out_scenes(VAE_SCENES))
    unseen = to_pixel_values(np.stack([np.asarray(render(scene, work / "icons")) for scene in scenes]))
    decoded = model.decode_latents(model.encode_images(unseen))
    figures = {
        "vae_psnr_db": float(psnr_db(unseen, decoded).mean()),
        "guidance": guidance,
        "samples": {"count": SAMPLES, **accuracy(judge, samples, singles)},
        "judge_on_drawings": accuracy(judge, unseen, scenes),
        "judge_on_decoded": accuracy(judge, decoded, scenes),
        "clip_on_drawings": _clip_accuracy(folder, singles, work),
        "inversion_psnr_db": _inversions(
            model, unseen[:INVERSIONS], [caption(s) for s in scenes[:INVERSIONS]], guidance
        ),
        "inversion_count": INVERSIONS,
        "unet_parameters": sum(p.numel() for p in model.unet.parameters()),
        "fingerprint": model.fingerprint,
    }
    write_card(figures, folder)
    write_picture(folder / "samples.png", sample_sheet(samples, singles))
    print(json.dumps(figures, indent=2))


def default_guidance(folder: Path) -> float:
    """The scale of the model's own default."""
    return float(json.loads((folder / MODEL_DEFAULTS).read_text())["guidance"])


def measure_smooth(work: Path, folder: Path = FOLDER) -> None:
    """Add the smooth LoRA to the card, with the samples' captions and noises, beside the model without it.

    ISTD is read from WORK/istd: smoothtool istd --model stickers --compare-lora default --n 100 --steps 20 -o WORK/istd
    """
    figures = json.loads((folder / "figures.json").read_text())
    report = json.loads((work / "istd" / "report.json").read_text())
    istd, guidance = report["figures"], default_guidance(folder)
    model, judge, clip = load_model(folder, "stickers", device="cpu"), load_judge(work), load_clip(folder / "clip")
    singles = list(held_out_scenes(SAMPLES, items=1))
    prompts = [caption(scene) for scene in singles]
    plain = sample(model, prompts, guidance)
    load_lora(model, folder / "smooth.safetensors")
    if report["model"]["loras"][-1]["fingerprint"] != model.loras[0]["fingerprint"]:
        raise SystemExit(f"{work / 'istd'} is of another LoRA")
    with_lora = sample(model, prompts, guidance)
    scores = [clip.score(pictures, prompts).tolist() for pictures in (plain, with_lora)]
    figures["smooth"] = {
        "plain": accuracy(judge, plain, singles),
        "with_lora": accuracy(judge, with_lora, singles),
        "clip_score": {
            "plain": fmean(scores[0]),
            "with_lora": fmean(scores[1]),
            "difference": asdict(paired_difference(*scores)),
        },
        "istd": {
            "plain": istd["istd"]["mean"],
            "with_lora": istd["compared"]["istd"]["mean"],
            "plain_distance": _mean_distance(istd),
            "with_lora_distance": _mean_distance(istd["compared"]),
            "difference": istd["difference"],
            "steps": report["job"]["steps"],
        },
        "lora": model.loras[0]["fingerprint"],
    }
    write_card(figures, folder)
    write_picture(folder / "samples-smooth.png", sample_sheet(with_lora, singles))
    print(json.dumps(figures["smooth"], indent=2))


def _mean_distance(figures: dict[str, Any]) -> float:
    """Of adjacent pictures, over all walks."""
    return fmean(walk["mean"] for walk in figures["per_prompt"].values())


def _clip_accuracy(folder: Path, scenes: list[Scene], work: Path) -> dict[str, float]:
    clip = CLIPModel.from_pretrained(folder / "clip", dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder / "clip")
    pictures = to_pixel_values(np.stack([np.asarray(render(scene, work / "icons")) for scene in scenes]))
    return clip_accuracy(clip, tokenizer, pictures, scenes)


def _inversions(
    model: DiffusionModel, pixel_values: torch.Tensor, prompts: list[str], guidance: float
) -> dict[str, float]:
    """Mean PSNR of reconstructions at that guidance, each picture inverted alone, beside the VAE's."""
    latents, null = model.encode_images(pixel_values), model.encode_null()
    figures = {"vae": float(psnr_db(pixel_values, model.decode_latents(latents)).mean())}
    totals = {"ddim": 0.0, "nti_adam": 0.0, "nti_gauss_newton": 0.0}
    for row, prompt in enumerate(prompts):
        z, text, picture = latents[[row]], model.encode_prompts([prompt]), pixel_values[[row]]
        trajectory = trajectory_of(z, list(ddim_inversion_steps(model, z, text, STEPS)))
        *_, plain = denoise(model, trajectory.noise, constant(text), constant(null), STEPS, guidance)
        *_, adam = null_text_steps(model, trajectory, text, null, guidance, adam_solver())
        *_, newton = null_text_steps(model, trajectory, text, null, guidance, gauss_newton_solver())
        for name, step in (("ddim", plain), ("nti_adam", adam), ("nti_gauss_newton", newton)):
            totals[name] += float(psnr_db(picture, model.decode_latents(step.latents))) / len(prompts)
    return {**figures, **totals}
