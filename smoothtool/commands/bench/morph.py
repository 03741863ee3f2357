"""MorphBench (Zhang et al. 2024, DiffMorpher, arXiv:2312.07409): walks between pairs, measured step by step."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from smoothtool.commands.bench.benchmark import Benchmark, Figures, Measure
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.commands.shared.path_distance import path_distance
from smoothtool.files.pictures.images import load_image, to_pixel_values
from smoothtool.metrics.sequences import deviation, path_figures
from smoothtool.recipe.benchmarks import MORPH_FRAMES, BenchItem
from smoothtool.types import Track

if TYPE_CHECKING:
    from smoothtool.jobs import BenchJob

SIDE_PX = 512


def _measure(job: BenchJob, track: Track, pool: ModelPool) -> Measure:
    """LPIPS where it can be had; else the stand-in, under its own name."""
    distance, name = path_distance(SIDE_PX, track)

    def figures(frames: torch.Tensor) -> Figures:
        path = path_figures(frames, distance, name)
        return {"ppl": path.ppl, "pdv": path.pdv, "deviation": deviation(frames).normalised_std}

    def measure(item: BenchItem, result: Path) -> tuple[Figures, Figures]:
        frames = torch.cat([_frame(path) for path in sorted((result / "frames").glob("*.png"))])
        first, last = (_frame(path) for path in item.source.pictures)
        half = MORPH_FRAMES // 2
        return figures(frames), figures(torch.cat([first] * (MORPH_FRAMES - half) + [last] * half))

    return measure


def _frame(path: Path) -> torch.Tensor:
    """pixel_values [1, 3, 512, 512], the size that the benchmark measures at."""
    pixel_values = to_pixel_values(load_image(path))
    if pixel_values.shape[-2:] == (SIDE_PX, SIDE_PX):
        return pixel_values
    return F.interpolate(pixel_values, (SIDE_PX, SIDE_PX), mode="bilinear", antialias=True)


MORPH = Benchmark(
    measure=_measure,
    columns={"ppl": "PPL", "pdv": "PDV", "deviation": "L2 deviation"},
    rule=f"per pair of {MORPH_FRAMES} frames the sum (PPL) and the variance (PDV) of the {MORPH_FRAMES - 1} adjacent "
    f"distances at {SIDE_PX} px, mean over pairs; the published figures cannot be a plain sum: they compare among "
    "themselves alone",
    published={
        "paper: DiffMorpher": {"ppl": 21.1, "pdv": 21.4, "deviation": None},
        "paper: slerp": {"ppl": 25.4, "pdv": 288.5, "deviation": None},
    },
)
