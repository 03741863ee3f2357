"""What several commands measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from typing_extensions import NotRequired


class IntervalFigures(TypedDict):
    """A mean over `count` values, and what holds it with 95 % confidence."""

    mean: float
    low: float
    high: float
    count: int


class DeviationFigures(TypedDict):
    """Adjacent L2 distances of a sequence over [0, 1] pixels, and how far they scatter."""

    distances: Sequence[float]
    mean: float
    population_std: float
    sample_std: float | None
    normalised_std: float


class PathLengthFigures(TypedDict):
    """PPL and PDV of a sequence, in the distance that is named."""

    distance: str
    distances: Sequence[float]
    ppl: float
    pdv: float


class PictureQuality(TypedDict):
    """How well one picture is given back."""

    mse: float
    psnr_db: float
    ssim: float
    lpips: float | None
    lpips_reason: str


class QualityFigures(TypedDict):
    """The means over `pictures`; `lpips_reason` says why LPIPS is missing."""

    mse: float | None
    psnr_db: float | None
    ssim: float | None
    lpips: float | None
    pictures: int
    lpips_reason: NotRequired[str]


class CostFigures(TypedDict):
    """What a stretch of work cost."""

    unet_calls: int
    seconds: float
    peak_memory_mb: float | None


class InversionFigures(TypedDict):
    """How pictures come back from their inversion, beside the VAE alone; `guidance_1`: DDIM's without guidance."""

    reconstruction: QualityFigures
    vae: QualityFigures
    converged: bool
    losses: Sequence[float]
    inversion_unet_calls: int
    cached: bool
    guidance_1: NotRequired[QualityFigures]
