"""Find the guidance scale that suits the packed model, and make it the model's own default (`smoothtool.json`)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from smoothtool.diffusion.loading import load_model
from smoothtool.files.storage.writing import write_json_atomic
from smoothtool.metrics.clip_score import load_clip
from smoothtool.metrics.fid import frechet_distance
from smoothtool.stickers.making.held_out import SAMPLES, held_out_scenes, sample
from smoothtool.stickers.making.judge import accuracy, load_judge
from smoothtool.stickers.making.pack import FOLDER
from smoothtool.stickers.world.pool import to_pixel_values
from smoothtool.stickers.world.scenes import caption, render
from smoothtool.weights.models import MODEL_DEFAULTS

SCALES = (1.5, 2.0, 3.0, 4.0, 5.0, 7.5, 10.0)
STEPS = 25
AS_GOOD = 0.011
"""One of 96 samples: scales with concepts and styles right as often as the best one, but for so much, are as good."""


def measure_guidance(work: Path, folder: Path = FOLDER) -> None:
    """Sample held-out captions at every scale; write the rows to the working folder and the winner to the model's."""
    model, judge, clip = load_model(folder, "stickers", device="cpu"), load_judge(work), load_clip(folder / "clip")
    scenes = list(held_out_scenes(SAMPLES, items=1))
    drawn = to_pixel_values(np.stack([np.asarray(render(scene, work / "icons")) for scene in scenes]))
    truth = clip.image_features(model.decode_latents(model.encode_images(drawn)))
    rows = []
    for scale in SCALES:
        pictures = sample(model, [caption(scene) for scene in scenes], scale, STEPS)
        distance = frechet_distance(truth, clip.image_features(pictures))
        rows.append(
            {
                "guidance": scale,
                **accuracy(judge, pictures, scenes),
                "frechet": distance,
                "saturation": saturation(pictures) / saturation(drawn),
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    write_json_atomic(work / "guidance.json", {"rows": rows, "fingerprint": model.fingerprint})
    write_json_atomic(folder / MODEL_DEFAULTS, {"guidance": best_scale(rows)})


def best_scale(rows: list[dict[str, Any]]) -> float:
    """Of the scales with right concepts and styles most often, the one with pictures nearest to drawings (Frechet)."""
    right = [row["concept"] + row["style"] for row in rows]
    as_good = [row for row, share in zip(rows, right, strict=True) if share >= max(right) - AS_GOOD]
    return float(min(as_good, key=lambda row: row["frechet"])["guidance"])


def saturation(pixel_values: torch.Tensor) -> float:
    """Mean over pixels of the largest channel less the smallest, 0 to 2, of [B, 3, H, W] in [-1, 1]."""
    return float((pixel_values.amax(dim=1) - pixel_values.amin(dim=1)).mean())
