"""DragBench (Shi et al. 2024, DragDiffusion, arXiv:2306.14435): drags measured by where the handles are found again.

Distances are those of DragDiffusion's program, in pixels of the picture, and RegionDrag's (Lu et al., ECCV 2024,
arXiv:2407.18247), whose places are divided by the picture's width and height, so that large pictures count no more.
"""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import torch.nn.functional as F
from PIL import Image

from smoothtool.commands.bench.benchmark import Benchmark, Figures, Measure
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.commands.shared.session import open_session
from smoothtool.diffusion.loading import load_model
from smoothtool.diffusion.lora import lora_disabled
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.files.lists.points import read_points
from smoothtool.files.pictures.images import fit_image, load_image, to_pixel_values
from smoothtool.metrics.drag_distance import (
    Places,
    correspondence_feature,
    find_points,
    normalised_distances,
    target_distances,
)
from smoothtool.metrics.reconstruction import lpips, lpips_missing, psnr_db
from smoothtool.recipe.benchmarks import BenchItem
from smoothtool.types import DragPoints, Track
from smoothtool.weights.models import find_model

if TYPE_CHECKING:
    from smoothtool.jobs import BenchJob

FIDELITY_PX = 224
"""The size at which DragBench's program takes LPIPS."""


def _measure(job: BenchJob, track: Track, pool: ModelPool) -> Measure:
    eye = _eye(job, track, pool)
    if reason := lpips_missing(FIDELITY_PX):
        track.note(f"no image fidelity: {reason}")

    def figures(before: Image.Image, after: Image.Image, points: DragPoints, found: Places) -> Figures:
        peak = float(psnr_db(to_pixel_values(before), to_pixel_values(after)))
        return {
            "distance_px": fmean(target_distances(found, points)),
            "normalised": fmean(normalised_distances(found, points, before.size)),
            "fidelity": _fidelity(before, after),
            "psnr_db": peak if math.isfinite(peak) else None,
            "points": len(points),
        }

    def measure(item: BenchItem, result: Path) -> tuple[Figures, Figures]:
        asked = read_points(item.source.points)
        before, after = load_image(item.source.picture), load_image(result / "dragged.png")
        found = found_again(eye, before, after, asked.points, asked.prompt)
        stayed = list(asked.points.handles_xy_px)  # a picture is found where it is in itself
        return figures(before, after, asked.points, found), figures(before, before, asked.points, stayed)

    return measure


def _eye(job: BenchJob, track: Track, pool: ModelPool) -> DiffusionModel:
    """SD 2.1, as DragBench's figures have it, where it is on this machine; else the model that drags."""
    place = find_model("sd21")
    if place is not None and place.folder is not None:
        return load_model(place.folder, place.name, device=job.device, dtype=job.dtype)
    model = open_session(job, track, pool)
    track.note(
        f"distances are found with the features of {model.name}, not of SD 2.1: published figures do not compare"
    )
    return model


def found_again(
    eye: DiffusionModel, before: Image.Image, after: Image.Image, points: DragPoints, prompt: str
) -> Places:
    """Where the feature of each handle of the picture before is in the picture after, (x, y) in pixels."""
    features = []
    with lora_disabled(eye):
        for picture in (before, after):
            one = fit_image(picture, multiple=eye.size_multiple, size=None, native_px=eye.native_size_px)
            feature = correspondence_feature(eye, one.pixel_values, prompt)
            width, height = one.size_px
            scale = feature.shape[-1] / one.pixel_values.shape[-1]
            features.append(feature[..., : math.ceil(height * scale), : math.ceil(width * scale)])
    return find_points(features[0], features[1], points.handles_xy_px, before.size)


def _fidelity(before: Image.Image, after: Image.Image) -> float | None:
    """1 - LPIPS at 224 px as DragBench has it, None where LPIPS cannot be had."""
    small = [
        F.interpolate(to_pixel_values(one), (FIDELITY_PX, FIDELITY_PX), mode="bilinear") for one in (before, after)
    ]
    distance = lpips(small[0], small[1])
    return None if distance is None else 1 - float(distance)


DRAG = Benchmark(
    measure=_measure,
    columns={
        "distance_px": "distance px",
        "normalised": "normalised distance x100",
        "fidelity": "image fidelity",
        "psnr_db": "PSNR dB",
    },
    weights={"distance_px": "points", "normalised": "points"},
    rule="distances over all points of all items, the rest over items; distance: from where a handle's feature (DIFT) "
    "is found again to its target, normalised: of places divided by width and height; image fidelity: 1 - LPIPS "
    f"(AlexNet) at {FIDELITY_PX} px; items with points that are doubled or already at their target count as they are",
    published={
        "paper: DragDiffusion (SD 1.5)": {"distance_px": 34.8, "fidelity": 0.886},
        "Inpaint4Drag's paper: DragDiffusion": {"normalised": 0.067},
        "Inpaint4Drag's paper: FastDrag": {"normalised": 0.051},
        "Inpaint4Drag's paper: Inpaint4Drag": {"normalised": 0.039},
    },
)
