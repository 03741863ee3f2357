"""MorphBench (Zhang et al. 2024, DiffMorpher, arXiv:2312.07409): walks between pairs, measured step by step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from smoothtool.commands.bench.benchmark import Benchmark, Figures, Measure
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.commands.shared.path_distance import path_distance
from smoothtool.files.pictures.images import load_image, to_pixel_values
from smoothtool.metrics.clip_score import load_clip
from smoothtool.metrics.fid import frechet_distance, inception_features, inception_missing
from smoothtool.metrics.sequences import deviation, path_figures
from smoothtool.recipe.benchmarks import MORPH_FRAMES, BenchItem
from smoothtool.types import Track
from smoothtool.weights.models import STICKERS

if TYPE_CHECKING:
    from smoothtool.jobs import BenchJob

SIDE_PX = 512
DRAWS, DRAWN = 10, 2
"""How often frames are drawn for FID, and how many of each walk."""
FIRST_FRAMES = MORPH_FRAMES - MORPH_FRAMES // 2
"""Of doing nothing: so many frames are the first picture, the others the last."""


def _measure(job: BenchJob, track: Track, pool: ModelPool) -> Measure:
    """LPIPS where it can be had; else the stand-in, under its own name."""
    distance, name = path_distance(SIDE_PX, track)

    def figures(frames: torch.Tensor) -> Figures:
        path = path_figures(frames, distance, name)
        return {"ppl": path.ppl, "pdv": path.pdv, "deviation": deviation(frames).normalised_std}

    def measure(item: BenchItem, result: Path) -> tuple[Figures, Figures]:
        frames = torch.cat([_frame(path) for path in _frame_paths(result)])
        first, last = (_frame(path) for path in item.source.pictures)
        stayed = [(first, last)[at >= FIRST_FRAMES] for at in range(MORPH_FRAMES)]
        return figures(frames), figures(torch.cat(stayed))

    return measure


def _together(job: BenchJob, made: Sequence[tuple[BenchItem, Path]], track: Track) -> tuple[Figures, Figures]:
    """FID of two frames drawn from each walk to all inputs, mean of ten draws; in CLIP's features by another name."""
    reason = inception_missing()
    clip = load_clip(STICKERS / "clip") if reason else None
    if clip is not None:
        track.note(f"no FID, but the Frechet distance in features of CLIP {clip.name}: {reason}")
    features = inception_features if clip is None else clip.image_features
    key = "fid" if clip is None else "clip_frechet_distance"
    seen: dict[Path, torch.Tensor] = {}

    def of(paths: Sequence[Path]) -> torch.Tensor:
        for path in paths:
            if path not in seen:
                seen[path] = features(_frame(path)).cpu()
        return torch.cat([seen[path] for path in paths])

    inputs = of([path for item, _ in made for path in item.source.pictures])
    walks = [(item.source.pictures, _frame_paths(result)) for item, result in made]
    rows = []
    for draw in track(range(DRAWS), "drawing frames", DRAWS):
        generator = np.random.default_rng([job.seed or 0, draw])
        drawn = [generator.choice(MORPH_FRAMES, DRAWN, replace=False).tolist() for _ in walks]
        frames = [frames[at] for (_, frames), places in zip(walks, drawn, strict=True) for at in places]
        stayed = [ends[at >= FIRST_FRAMES] for (ends, _), places in zip(walks, drawn, strict=True) for at in places]
        rows.append([frechet_distance(of(paths), inputs) for paths in (frames, stayed)])
    walked, idle = (fmean(row[side] for row in rows) for side in (0, 1))
    return {key: walked}, {key: idle}


def _frame_paths(result: Path) -> list[Path]:
    return sorted((result / "frames").glob("*.png"))


def _frame(path: Path) -> torch.Tensor:
    """pixel_values [1, 3, 512, 512], the size that the benchmark measures at."""
    pixel_values = to_pixel_values(load_image(path))
    if pixel_values.shape[-2:] == (SIDE_PX, SIDE_PX):
        return pixel_values
    return F.interpolate(pixel_values, (SIDE_PX, SIDE_PX), mode="bilinear", antialias=True)


MORPH = Benchmark(
    measure=_measure,
    columns={
        "ppl": "PPL",
        "pdv": "PDV",
        "deviation": "L2 deviation",
        "fid": "FID",
        "clip_frechet_distance": "Frechet distance, CLIP",
    },
    rule=f"per pair of {MORPH_FRAMES} frames the sum (PPL) and the variance (PDV) of the {MORPH_FRAMES - 1} adjacent "
    f"distances at {SIDE_PX} px, mean over pairs; FID: {DRAWN} frames drawn from each walk against the inputs, mean of "
    f"{DRAWS} draws; the published figures cannot be a plain sum: they compare among "
    "themselves alone",
    published={
        "paper: DiffMorpher": {"ppl": 21.1, "pdv": 21.4, "deviation": None},
        "paper: slerp": {"ppl": 25.4, "pdv": 288.5, "deviation": None},
    },
    together=_together,
)
