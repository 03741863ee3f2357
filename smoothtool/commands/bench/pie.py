"""PIE-Bench (Ju et al. 2024, PnP Inversion, arXiv:2310.01506): edits measured inside and outside the edited part."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
import torch.nn.functional as F

from smoothtool.commands.bench.benchmark import Benchmark, Figures, Measure
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.errors import SmoothtoolError
from smoothtool.files.lists.published_sets import PieItem
from smoothtool.files.pictures.images import load_image, to_pixel_values
from smoothtool.metrics.clip_score import load_clip
from smoothtool.metrics.reconstruction import lpips, lpips_missing, mse, psnr_db, ssim
from smoothtool.metrics.structure import load_dino
from smoothtool.recipe.benchmarks import BenchItem
from smoothtool.types import Track
from smoothtool.weights.models import STICKERS

if TYPE_CHECKING:
    from smoothtool.jobs import BenchJob

T = TypeVar("T")


def _measure(job: BenchJob, track: Track, pool: ModelPool) -> Measure:
    """Load what measures, note what is missing."""
    clip = _if_there(lambda: load_clip(STICKERS / "clip" if job.clip == "stickers" else job.clip), track, "CLIP score")
    dino = _if_there(lambda: load_dino(job.dino), track, "structure distance")
    if reason := lpips_missing(net="squeeze"):
        track.note(f"no LPIPS: {reason}")

    def figures(item: PieItem, before: torch.Tensor, after: torch.Tensor) -> Figures:
        keep = ~mask_at(item.mask, (after.shape[-2], after.shape[-1]))
        edited_part = None if clip is None else float(clip.score(masked(after, ~keep), [item.target])[0])
        return {
            "structure": None if dino is None else float(dino.distance(before, after)[0]),
            **outside(before, after, keep),
            "clip": None if clip is None else float(clip.score(after, [item.target])[0]),
            "clip_edited": edited_part if bool((~keep).any()) else None,
        }

    def measure(item: BenchItem, result: Path) -> tuple[Figures, Figures]:
        before = to_pixel_values(load_image(item.source.picture))
        after = to_pixel_values(load_image(result / "edited.png"))
        if after.shape != before.shape:
            before = F.interpolate(before, after.shape[-2:], mode="bilinear", antialias=True)
        return figures(item.source, before, after), figures(item.source, before, before)

    return measure


def outside(before: torch.Tensor, after: torch.Tensor, keep: torch.Tensor) -> Figures:
    """How well what should stay has stayed: both pictures black where they are edited; nothing where all of it is.

    before, after: pixel_values [1, 3, H, W] in [-1, 1]; keep: bool [H, W]. MSE is over [0, 1] pixels here.
    """
    if not bool(keep.any()):
        return {"psnr_db": None, "lpips": None, "mse": None, "ssim": None}
    a, b = masked(before, keep), masked(after, keep)
    perceptual = lpips(a, b, net="squeeze")
    peak = float(psnr_db(a, b)[0])
    return {
        "psnr_db": peak if math.isfinite(peak) else None,
        "lpips": None if perceptual is None else float(perceptual[0]),
        "mse": float(mse(a, b)[0]) / 4,
        "ssim": float(ssim(a, b)[0]),
    }


def masked(pixel_values: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Black wherever `keep` bool [H, W] is false."""
    return torch.where(keep, pixel_values, -1.0)


def mask_at(mask: np.ndarray, size: tuple[int, int]) -> torch.Tensor:
    """A mask bool [H, W] at another (height, width)."""
    if mask.shape == size:
        return torch.from_numpy(mask)
    return F.interpolate(torch.from_numpy(mask)[None, None].float(), size)[0, 0] > 0.5


def _if_there(load: Callable[[], T], track: Track, name: str) -> T | None:
    """What measures, or a line that says why it is not here."""
    try:
        return load()
    except SmoothtoolError as error:
        track.note(f"no {name}: {error}")
        return None


def _row(structure: float, psnr: float, perceptual: float | None, clip: float | None) -> Figures:
    return {
        "structure": structure / 1000,
        "psnr_db": psnr,
        "lpips": None if perceptual is None else perceptual / 1000,
        "clip": clip,
    }


PIE = Benchmark(
    measure=_measure,
    columns={
        "structure": "structure x1000", "psnr_db": "PSNR dB", "lpips": "LPIPS x1000", "mse": "MSE x10000",
        "ssim": "SSIM x100", "clip": "CLIP whole", "clip_edited": "CLIP edited",
    },
    rule="mean over items; PSNR, LPIPS, MSE and SSIM outside the mask (both pictures times 1 - mask), items whose mask "
    "covers everything left out of those; structure: MSE of the self-similarity of DINO's last keys at 224 px",
    published={
        "paper: P2P, DDIM (SD 1.4)": _row(69.4, 17.87, 208.8, 25.01),
        "paper: P2P, null-text": _row(13.4, 27.03, 60.7, 24.75),
        "paper: P2P, NPI": _row(16.2, 26.21, 69.0, 24.61),
        "paper: P2P, direct": _row(11.7, 27.22, 54.6, 25.02),
        "paper: SPDInv": _row(8.81, 28.60, None, None),
        "paper: DCI": _row(6.07, 29.38, None, None),
    },
)  # fmt: skip
