"""How well a picture is given back: MSE, PSNR, SSIM and LPIPS, one figure per picture.

Every function takes pixel_values [B, 3, H, W] in [-1, 1] and gives B figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from smoothtool.errors import InputError
from smoothtool.figures import PictureQuality, QualityFigures

SSIM_WINDOW_PX, SSIM_SIGMA_PX = 11, 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2
LPIPS_SMALLEST_PX = 31  # below, AlexNet's second pooling has nothing left to pool
LPIPS_BACKBONES = {"alex": "alexnet-owt-7be5be79.pth", "squeeze": "squeezenet1_1-b8a52dc0.pth"}


@dataclass(frozen=True)
class Quality:
    """One picture. `lpips` is None where it cannot be had here; `lpips_reason` then says why, in one line."""

    mse: float
    psnr_db: float
    ssim: float
    lpips: float | None = None
    lpips_reason: str = ""

    def figures(self) -> PictureQuality:
        return {
            "mse": self.mse,
            "psnr_db": self.psnr_db,
            "ssim": self.ssim,
            "lpips": self.lpips,
            "lpips_reason": self.lpips_reason,
        }


def mse(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Mean squared error over [-1, 1] pixels (four times that over [0, 1])."""
    _check_pair(first, second)
    return (first.double() - second.double()).square().flatten(start_dim=1).mean(dim=1)


def psnr_db(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """10 log10(2^2 / MSE): peak 2 on [-1, 1], the same as peak 1 on [0, 1]. Equal pictures: infinity."""
    return 10 * torch.log10(4 / mse(first, second))


def ssim(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Structural similarity (Wang et al. 2004, eq. 13): Gaussian window 11 x 11, sigma 1.5, K = 0.01 and 0.03.

    Taken on [0, 1] RGB, over the places where the window lies wholly inside, mean over places and channels.
    A picture smaller than the window is measured with the largest odd window that fits.
    """
    _check_pair(first, second)
    a, b = ((picture.double() + 1) / 2 for picture in (first, second))
    weights = _gaussian(_window_px(a), a.device)
    mean_a, mean_b = _blur(a, weights), _blur(b, weights)
    var_a, var_b = _blur(a * a, weights) - mean_a**2, _blur(b * b, weights) - mean_b**2
    covariance = _blur(a * b, weights) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + SSIM_C1) / (mean_a**2 + mean_b**2 + SSIM_C1)
    structure = (2 * covariance + SSIM_C2) / (var_a + var_b + SSIM_C2)
    return (luminance * structure).flatten(start_dim=1).mean(dim=1)


def lpips(first: torch.Tensor, second: torch.Tensor, net: str = "alex") -> torch.Tensor | None:
    """Learned perceptual distance (Zhang et al. 2018), or None where `lpips_missing()` says why.

    net  alex, as most papers have it, or squeeze, as PIE-Bench has it
    """
    _check_pair(first, second)
    if lpips_missing(min(first.shape[-2:]), net):
        return None
    metric = _lpips_metric(net)
    with torch.no_grad():
        values = [metric(a[None].float(), b[None].float()) for a, b in zip(first, second, strict=True)]
    return torch.stack(values).double()


def lpips_missing(side_px: int = LPIPS_SMALLEST_PX, net: str = "alex") -> str:
    """Why LPIPS cannot be had here for pictures with this shorter side, or ''. Nothing is ever downloaded for it."""
    if side_px < LPIPS_SMALLEST_PX:
        return f"LPIPS needs pictures of at least {LPIPS_SMALLEST_PX} pixels a side"
    if find_spec("torchmetrics") is None or find_spec("torchvision") is None:
        return "LPIPS needs an extra: pip install 'smoothtool[metrics]'"
    backbone = Path(torch.hub.get_dir()) / "checkpoints" / LPIPS_BACKBONES[net]
    if not backbone.is_file():
        return f"LPIPS needs its network: put {backbone.name} from download.pytorch.org/models in {backbone.parent}"
    try:
        import torchvision  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:  # RuntimeError: built for another torch
        return f"LPIPS needs a torchvision that fits torch {torch.__version__}: {str(error).splitlines()[0]}"
    return ""


def qualities(first: torch.Tensor, second: torch.Tensor) -> list[Quality]:
    """All four figures, picture by picture.

    Raises: InputError when the two sets differ in shape or a value is not finite.
    """
    errors, peaks, similarities = (measure(first, second).tolist() for measure in (mse, psnr_db, ssim))
    perceptual = lpips(first, second)
    last = [None] * len(first) if perceptual is None else perceptual.tolist()
    reason = lpips_missing(min(first.shape[-2:])) if perceptual is None else ""
    return [Quality(*row, reason) for row in zip(errors, peaks, similarities, last, strict=True)]


def reconstruction_quality(first: torch.Tensor, second: torch.Tensor) -> QualityFigures:
    """The means over all pictures, ready for a report: see `mean_quality`."""
    return mean_quality(qualities(first, second))


def mean_quality(rows: Sequence[Quality]) -> QualityFigures:
    """`mse`, `psnr_db`, `ssim`, `lpips`, `pictures`, and `lpips_reason` when LPIPS is missing.

    The mean PSNR is the mean of the pictures' PSNR, as in the papers; None when a picture came back without any error.
    """
    if not rows:
        raise InputError("there are no pictures to measure", "a folder with pictures in it")
    figures: QualityFigures = {
        "mse": _mean([row.mse for row in rows]),
        "psnr_db": _mean([row.psnr_db for row in rows]),
        "ssim": _mean([row.ssim for row in rows]),
        "lpips": _mean([row.lpips for row in rows]),
        "pictures": len(rows),
    }
    if reason := next((row.lpips_reason for row in rows if row.lpips_reason), ""):
        figures["lpips_reason"] = reason
    return figures


def _mean(values: Sequence[float | None]) -> float | None:
    """None, which JSON can say, where a value is missing or infinite."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    return sum(finite) / len(finite) if len(finite) == len(values) else None


@lru_cache(maxsize=2)
def _lpips_metric(net: str) -> Any:
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    return LearnedPerceptualImagePatchSimilarity(net_type=net).eval()


def _window_px(pictures: torch.Tensor) -> int:
    side = min(SSIM_WINDOW_PX, *pictures.shape[-2:])
    return side - 1 + side % 2


def _gaussian(window_px: int, device: torch.device) -> torch.Tensor:
    offsets = torch.arange(window_px, dtype=torch.float64, device=device) - window_px // 2
    weights = torch.exp(-(offsets**2) / (2 * SSIM_SIGMA_PX**2))
    return weights / weights.sum()


def _blur(pictures: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """[B, 3, H, W] -> [B, 3, H - k + 1, W - k + 1], rows then columns: the Gaussian is separable."""
    planes = pictures.flatten(end_dim=1)[:, None]
    planes = F.conv2d(F.conv2d(planes, weights[None, None, :, None]), weights[None, None, None, :])
    return planes.reshape(*pictures.shape[:2], *planes.shape[-2:])


def _check_pair(first: torch.Tensor, second: torch.Tensor) -> None:
    if first.shape != second.shape:
        shapes = f"{tuple(first.shape)} and {tuple(second.shape)}"
        raise InputError(f"pictures of different shapes cannot be compared: {shapes}", "the same count and size")
    for number, picture in enumerate(zip(first, second, strict=True)):
        if not all(bool(torch.isfinite(part).all()) for part in picture):
            raise InputError(f"picture {number} has values that are not finite", "leave it out, or make it again")
