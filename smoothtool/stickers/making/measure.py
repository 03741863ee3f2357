"""Measure the packed model and its smooth LoRA on held-out scenes, and write its card and sheets of samples."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import CLIPModel, CLIPTokenizer

from smoothtool.diffusion.loading import load_model
from smoothtool.diffusion.lora import load_lora
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import constant, denoise
from smoothtool.files.drawing.sheets import contact_sheet
from smoothtool.files.pictures.images import to_image
from smoothtool.files.storage.writing import write_picture
from smoothtool.methods.inversion.ddim import ddim_inversion_steps, trajectory_of
from smoothtool.methods.inversion.null_text import adam_solver, gauss_newton_solver, null_text_steps
from smoothtool.metrics.bootstrap import paired_difference
from smoothtool.metrics.clip_score import load_clip
from smoothtool.metrics.reconstruction import psnr_db
from smoothtool.stickers.making.card import write_card
from smoothtool.stickers.making.clip import clip_accuracy
from smoothtool.stickers.making.judge import accuracy, load_judge
from smoothtool.stickers.making.pack import FOLDER
from smoothtool.stickers.world.pool import HELD_OUT_SEED, to_pixel_values
from smoothtool.stickers.world.scenes import Scene, caption, render, sample_scene

STEPS, GUIDANCE = 50, 7.5
SAMPLES, INVERSIONS, VAE_SCENES = 96, 4, 200


def measure(work: Path, folder: Path = FOLDER) -> None:
    """All figures of the card. Scenes, captions and noises are the same every time."""
    model = load_model(folder, "stickers", device="cpu")
    judge = load_judge(work)
    singles = list(_held_out(SAMPLES, items=1))
    samples = _samples(model, [caption(scene) for scene in singles])
    scenes = list(_held_out(VAE_SCENES))
    unseen = to_pixel_values(np.stack([np.asarray(render(scene, work / "icons")) for scene in scenes]))
    decoded = model.decode_latents(model.encode_images(unseen))
    figures = {
        "vae_psnr_db": float(psnr_db(unseen, decoded).mean()),
        "samples": {"count": SAMPLES, **accuracy(judge, samples, singles)},
        "judge_on_drawings": accuracy(judge, unseen, scenes),
        "judge_on_decoded": accuracy(judge, decoded, scenes),
        "clip_on_drawings": _clip_accuracy(folder, singles, work),
        "inversion_psnr_db": _inversions(model, unseen[:INVERSIONS], [caption(s) for s in scenes[:INVERSIONS]]),
        "inversion_count": INVERSIONS,
        "unet_parameters": sum(p.numel() for p in model.unet.parameters()),
        "fingerprint": model.fingerprint,
    }
    write_card(figures, folder)
    write_picture(folder / "samples.png", _sample_sheet(samples, singles))
    print(json.dumps(figures, indent=2))


def measure_smooth(work: Path, folder: Path = FOLDER) -> None:
    """Add the smooth LoRA to the card, with the samples' captions and noises, beside the model without it.

    ISTD is read from WORK/istd: smoothtool istd --model stickers --compare-lora default --n 30 -o WORK/istd
    """
    figures = json.loads((folder / "figures.json").read_text())
    report = json.loads((work / "istd" / "report.json").read_text())
    istd = report["figures"]
    model, judge, clip = load_model(folder, "stickers", device="cpu"), load_judge(work), load_clip(folder / "clip")
    singles = list(_held_out(SAMPLES, items=1))
    prompts = [caption(scene) for scene in singles]
    plain = _samples(model, prompts)
    load_lora(model, folder / "smooth.safetensors")
    if report["model"]["loras"][-1]["fingerprint"] != model.loras[0]["fingerprint"]:
        raise SystemExit(f"{work / 'istd'} is of another LoRA")
    with_lora = _samples(model, prompts)
    scores = [clip.score(pictures, prompts).tolist() for pictures in (plain, with_lora)]
    figures["smooth"] = {
        "plain": accuracy(judge, plain, singles),
        "with_lora": accuracy(judge, with_lora, singles),
        "clip_score": {
            "plain": fmean(scores[0]), "with_lora": fmean(scores[1]), "difference": asdict(paired_difference(*scores))
        },
        "istd": {
            "plain": istd["istd"]["mean"],
            "with_lora": istd["compared"]["istd"]["mean"],
            "plain_distance": _mean_distance(istd),
            "with_lora_distance": _mean_distance(istd["compared"]),
            "difference": istd["difference"],
        },
        "lora": model.loras[0]["fingerprint"],
    }  # fmt: skip
    write_card(figures, folder)
    write_picture(folder / "samples-smooth.png", _sample_sheet(with_lora, singles))
    print(json.dumps(figures["smooth"], indent=2))


def _mean_distance(figures: dict[str, Any]) -> float:
    """Of adjacent pictures, over all walks."""
    return fmean(walk["mean"] for walk in figures["per_prompt"].values())


def _sample_sheet(samples: torch.Tensor, scenes: list[Scene]) -> Image.Image:
    """The first 48, each under its caption."""
    rows = [range(at, at + 8) for at in range(0, 48, 8)]
    pictures = [[to_image(samples[at]) for at in row] for row in rows]
    labels = [[caption(scenes[at]).removeprefix("a ").replace(" background", "") for at in row] for row in rows]
    return contact_sheet(pictures, labels=labels)


def _held_out(count: int, items: int | None = None) -> Iterator[Scene]:
    for index in range(count):
        yield sample_scene(Random(2 * HELD_OUT_SEED + index), held_out=True, items=items)


def _samples(model: DiffusionModel, prompts: list[str], batch: int = 16) -> torch.Tensor:
    noise = torch.randn((len(prompts), 4, 16, 16), generator=torch.Generator().manual_seed(0))
    null, pictures = constant(model.encode_null()), []
    for at in range(0, len(prompts), batch):
        text = constant(model.encode_prompts(prompts[at : at + batch]))
        *_, last = denoise(model, noise[at : at + batch], text, null, STEPS, GUIDANCE)
        pictures.append(model.decode_latents(last.latents))
    return torch.cat(pictures)


def _clip_accuracy(folder: Path, scenes: list[Scene], work: Path) -> dict[str, float]:
    clip = CLIPModel.from_pretrained(folder / "clip", dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder / "clip")
    pictures = to_pixel_values(np.stack([np.asarray(render(scene, work / "icons")) for scene in scenes]))
    return clip_accuracy(clip, tokenizer, pictures, scenes)


def _inversions(model: DiffusionModel, pixel_values: torch.Tensor, prompts: list[str]) -> dict[str, float]:
    """Mean PSNR of reconstructions at guidance 7.5, each picture inverted alone, beside the VAE's."""
    latents, null = model.encode_images(pixel_values), model.encode_null()
    figures = {"vae": float(psnr_db(pixel_values, model.decode_latents(latents)).mean())}
    totals = {"ddim": 0.0, "nti_adam": 0.0, "nti_gauss_newton": 0.0}
    for row, prompt in enumerate(prompts):
        z, text, picture = latents[[row]], model.encode_prompts([prompt]), pixel_values[[row]]
        trajectory = trajectory_of(z, list(ddim_inversion_steps(model, z, text, STEPS)))
        *_, plain = denoise(model, trajectory.noise, constant(text), constant(null), STEPS, GUIDANCE)
        *_, adam = null_text_steps(model, trajectory, text, null, GUIDANCE, adam_solver())
        *_, newton = null_text_steps(model, trajectory, text, null, GUIDANCE, gauss_newton_solver())
        for name, step in (("ddim", plain), ("nti_adam", adam), ("nti_gauss_newton", newton)):
            totals[name] += float(psnr_db(picture, model.decode_latents(step.latents))) / len(prompts)
    return {**figures, **totals}
