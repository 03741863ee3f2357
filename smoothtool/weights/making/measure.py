"""Measure the packed model on held-out scenes and write its card: figures.json, samples.png, README.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from transformers import CLIPModel, CLIPTokenizer

from smoothtool.diffusion.model import DiffusionModel, load_model
from smoothtool.diffusion.sampling import constant, denoise
from smoothtool.files.images import to_image
from smoothtool.files.sheets import contact_sheet
from smoothtool.methods.inversion.ddim import ddim_inversion_steps, trajectory_of
from smoothtool.methods.inversion.null_text import adam_solver, gauss_newton_solver, null_text_steps
from smoothtool.metrics.reconstruction import psnr_db
from smoothtool.weights.making.clip import clip_accuracy
from smoothtool.weights.making.icons import CONCEPTS
from smoothtool.weights.making.judge import accuracy, load_judge
from smoothtool.weights.making.pack import FOLDER
from smoothtool.weights.making.pool import HELD_OUT_SEED, to_pixel_values
from smoothtool.weights.making.scenes import COLOURS, Scene, caption, render, sample_scene

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
        "fingerprint": model.fingerprint,
    }
    (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    rows = [range(at, at + 8) for at in range(0, 48, 8)]
    pictures = [[to_image(samples[at]) for at in row] for row in rows]
    labels = [[caption(singles[at]).removeprefix("a ").replace(" background", "") for at in row] for row in rows]
    contact_sheet(pictures, labels=labels).save(folder / "samples.png")
    (folder / "README.md").write_text(_card(figures, sum(p.numel() for p in model.unet.parameters())))
    print(json.dumps(figures, indent=2))


def _held_out(count: int, items: int | None = None) -> Iterator[Scene]:
    for index in range(count):
        yield sample_scene(Random(2 * HELD_OUT_SEED + index), held_out=True, items=items)


def _samples(model: DiffusionModel, prompts: list[str], batch: int = 16) -> torch.Tensor:
    noise = torch.randn((len(prompts), 4, 16, 16), generator=torch.Generator().manual_seed(0))
    null, pictures = constant(model.encode_prompts([""])), []
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
    latents, null = model.encode_images(pixel_values), model.encode_prompts([""])
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


def _card(figures: dict[str, Any], unet_parameters: int) -> str:
    samples, inversion = figures["samples"], figures["inversion_psnr_db"]
    clip = figures["clip_on_drawings"]
    rows = [
        ("VAE, unseen scenes, PSNR", f"{figures['vae_psnr_db']:.2f} dB", ">= 30 dB"),
        ("samples: right concept first among 50", f"{samples['concept']:.0%}", ">= 70 %"),
        ("samples: right style", f"{samples['style']:.0%}", ">= 90 %"),
        ("samples: right background colour", f"{samples['colour']:.0%}", ">= 95 %"),
        ("reconstruction: the VAE alone, PSNR", f"{inversion['vae']:.2f} dB", ""),
        (
            "reconstruction: null-text, Gauss-Newton",
            f"{inversion['nti_gauss_newton']:.2f} dB",
            "within 0.5 dB of the VAE",
        ),
        ("reconstruction: null-text, Adam", f"{inversion['nti_adam']:.2f} dB", "within 0.5 dB of the VAE"),
        ("reconstruction: DDIM", f"{inversion['ddim']:.2f} dB", "clearly worse"),
        ("tiny CLIP on drawings: right concept first among 50", f"{clip['concept']:.0%}", ""),
        ("tiny CLIP on drawings: right style, colour", f"{clip['style']:.0%}, {clip['colour']:.0%}", ""),
    ]
    table = "\n".join(f"| {name} | {figure} | {aim} |" for name, figure, aim in rows)
    return CARD.format(
        table=table,
        millions=unet_parameters / 1e6,
        fingerprint=figures["fingerprint"],
        count=samples["count"],
        inversions=INVERSIONS,
        concepts=", ".join(CONCEPTS),
        colours=", ".join(COLOURS),
        drawings=_percentages(figures["judge_on_drawings"]),
        decoded=_percentages(figures["judge_on_decoded"]),
    )


def _percentages(judge: dict[str, float]) -> str:
    return f"{judge['concept']:.1%} of concepts, {judge['style']:.1%} of styles and {judge['colour']:.1%} of colours"


CARD = """# stickers

A small but complete Stable Diffusion (AutoencoderKL, CLIPTextModel, UNet2DConditionModel with {millions:.1f} million
parameters, DDIM schedule) for 64 px pictures of icons. It lets every part of smoothtool run within a minute, without a
GPU. It is an ordinary diffusers folder: `StableDiffusionPipeline.from_pretrained` loads it.

![48 samples from held-out captions](samples.png)

## What it knows

One or two icons of one style on a plain or softly graded background. Captions such as `a 3d fox on a blue background`,
`a flat banana and an apple on a white background`, `cartoon cake`.

- Styles: 3d, cartoon, flat.
- Backgrounds: {colours}.
- Concepts: {concepts}.

Photos, people, text and anything else are outside its world.

## Measured

On held-out combinations of concept, style and colour, never trained on: {count} captions of one item sampled with 50
DDIM steps at guidance 7.5, 200 scenes for the VAE, {inversions} scenes inverted with their captions and reconstructed
at guidance 7.5. Concept, style and colour are decided by a separate small classifier, trained on drawings and on the
same as the VAE gives them back. It is right itself on {drawings} of unseen drawings,
and on {decoded} of those through the VAE. Model fingerprint {fingerprint}.

| figure | measured | aim |
|---|---|---|
{table}

## Made from

Scenes composed of Microsoft Fluent Emoji (MIT), Noto Emoji (Apache 2.0) and Twemoji (Copyright Twitter and other
contributors, CC-BY 4.0). The weights are under the Apache License 2.0. Made by `python -m smoothtool.weights.making`.
"""
