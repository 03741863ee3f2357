"""What is measured of pictures that were made: invert, edit, interpolate, drag."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

from smoothtool.figures.shared import CostFigures, DeviationFigures, InversionFigures, QualityFigures

if TYPE_CHECKING:
    from typing_extensions import NotRequired

PointPx = tuple[float, float]


class ComparedInversion(CostFigures):
    """A row of `invert --compare`."""

    inversion: str
    mse: float | None
    psnr_db: float | None
    ssim: float | None
    lpips: float | None


class InvertFigures(InversionFigures, total=False):
    """Or `compare` alone."""

    compare: Sequence[ComparedInversion]


class EditQuality(CostFigures):
    """One edit: what it cost, how much of the picture is left, how well it fits the target prompt."""

    to_source: QualityFigures
    ratio: NotRequired[float]
    clip_score: NotRequired[float]
    clip: NotRequired[str]


class EditedPicture(EditQuality):
    """One edit and its file."""

    file: str
    target: str


class ComparedEdit(CostFigures):
    """A row of `edit --compare`."""

    method: str
    inversion: str
    psnr_to_source_db: float | None
    ssim_to_source: float | None
    clip_score: float | None
    inversion_unet_calls: int
    inversion_seconds: float | None


class EditFigures(TypedDict, total=False):
    """`edits` with the inversion that they start from, or `compare`."""

    edits: Sequence[EditedPicture]
    inversion: InversionFigures
    compare: Sequence[ComparedEdit]


class MorphQuality(TypedDict):
    """What tells morphs apart."""

    adjacent_l2_std: float
    ppl: float
    pdv: float
    ends_psnr_db: float
    middle_sharpness: float | None


class OpeningFigures(TypedDict):
    """What it cost to find the ends of a walk, as far as it is known."""

    opening_unet_calls: int | None
    opening_seconds: float | None


class ComparedMorph(MorphQuality, OpeningFigures, CostFigures):
    """A row of `interpolate --compare`."""

    method: str


class InterpolateFigures(TypedDict, total=False):
    """Of a walk `adjacent_l2` and `ratios`, of a grid `neighbour_l2` and `weights`, or `compare` in a `distance`."""

    adjacent_l2: DeviationFigures
    adjacent_l2_before_rescheduling: DeviationFigures
    ratios: Sequence[Sequence[float]]
    neighbour_l2: DeviationFigures
    weights: Sequence[Sequence[Sequence[float]]]
    inversion: InversionFigures
    compare: Sequence[ComparedMorph]
    distance: str


class DraggedPoint(TypedDict):
    """What is dragged where, (x, y) in pixels of the picture."""

    handle: PointPx
    target: PointPx
    distance_px: float


class DragIterationFigures(TypedDict):
    """One iteration of the tracking."""

    loss: float
    handles_xy_px: Sequence[PointPx]


class DragPathFigures(TypedDict):
    """`distance_left_px` and `arrived` are None where a method does not track."""

    points: Sequence[DraggedPoint]
    distance_left_px: Sequence[float] | None
    arrived: bool | None
    iterations: Sequence[DragIterationFigures]


class DragFigures(DragPathFigures):
    """With the most memory that was held."""

    peak_memory_mb: int
