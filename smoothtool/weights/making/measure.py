"""Measure the packed model on held-out scenes and write its card: figures.json, samples.png, README.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import torch

from smoothtool.diffusion.model import DiffusionModel, load_model
from smoothtool.diffusion.sampling import constant, denoise
from smoothtool.files.images import to_image
from smoothtool.files.sheets import contact_sheet
from smoothtool.methods.inversion.ddim import ddim_inversion_steps, trajectory_of
from smoothtool.methods.inversion.null_text import adam_solver, gauss_newton_solver, null_text_steps
from smoothtool.metrics.reconstruction import psnr_db
from smoothtool.weights.making.judge import accuracy, load_judge
from smoothtool.weights.making.pack import FOLDER
from smoothtool.weights.making.pool import HELD_OUT_SEED, to_pixel_values
from smoothtool.weights.making.scenes import Scene, caption, render, sample_scene

STEPS, GUIDANCE = 50, 7.5
SAMPLES, INVERSIONS, VAE_SCENES = 96, 8, 200


def measure(work: Path, folder: Path = FOLDER) -> None:
    """All figures of the card. Scenes, captions and noises are the same every time."""
    model = load_model(folder, "stickers", device="cpu")
    judge = load_judge(work)
    singles = list(_held_out(SAMPLES, items=1))
    samples = _samples(model, [caption(scene) for scene in singles])
    scenes = list(_held_out(VAE_SCENES))
    unseen = to_pixel_values(np.stack([np.asarray(render(scene, work / "icons")) for scene in scenes]))
    figures = {
        "vae_psnr_db": float(psnr_db(unseen, model.decode_latents(model.encode_images(unseen))).mean()),
        "samples": {"count": SAMPLES, **accuracy(judge, samples, singles)},
        "judge_on_drawings": accuracy(judge, unseen, scenes),
        "inversion_psnr_db": _inversions(model, unseen[:INVERSIONS], [caption(s) for s in scenes[:INVERSIONS]]),
        "fingerprint": model.fingerprint,
    }
    (folder / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    shown = list(range(48))
    pictures = [to_image(samples[at]) for at in shown]
    labels = [caption(singles[at]).removeprefix("a ").replace(" background", "") for at in shown]
    rows, names = ([part[at : at + 8] for at in range(0, 48, 8)] for part in (pictures, labels))
    contact_sheet(rows, labels=names).save(folder / "samples.png")
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
