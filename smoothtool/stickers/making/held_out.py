"""What the model is measured on: captions whose combination of concept, style and colour it never saw, sampled."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import torch
from PIL import Image

from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import constant, denoise
from smoothtool.files.drawing.sheets import contact_sheet
from smoothtool.files.pictures.images import to_image
from smoothtool.stickers.world.pool import HELD_OUT_SEED
from smoothtool.stickers.world.scenes import Scene, caption, sample_scene

STEPS = 50
SAMPLES = 96
SHOWN = 48
BATCH = 16


def held_out_scenes(count: int, items: int | None = None) -> Iterator[Scene]:
    """The same scenes every time; none is in the pool that the judge and the tiny CLIP are watched with."""
    for index in range(count):
        yield sample_scene(Random(2 * HELD_OUT_SEED + index), held_out=True, items=items)


def sample(model: DiffusionModel, prompts: list[str], guidance: float, steps: int = STEPS) -> torch.Tensor:
    """Pictures [B, 3, 64, 64] in [-1, 1], from the same noises every time."""
    noise = torch.randn((len(prompts), 4, 16, 16), generator=torch.Generator().manual_seed(0))
    null, pictures = constant(model.encode_null()), []
    for at in range(0, len(prompts), BATCH):
        text = constant(model.encode_prompts(prompts[at : at + BATCH]))
        *_, last = denoise(model, noise[at : at + BATCH], text, null, steps, guidance)
        pictures.append(model.decode_latents(last.latents))
    return torch.cat(pictures)


def sample_sheet(samples: torch.Tensor, scenes: list[Scene]) -> Image.Image:
    """The first SHOWN, each over its caption."""
    rows = [range(at, min(at + 8, len(scenes))) for at in range(0, min(SHOWN, len(scenes)), 8)]
    pictures = [[to_image(samples[at]) for at in row] for row in rows]
    labels = [[caption(scenes[at]).removeprefix("a ").replace(" background", "") for at in row] for row in rows]
    return contact_sheet(pictures, labels=labels)
