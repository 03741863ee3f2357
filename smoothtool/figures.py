"""What commands measure: the `figures` of their reports, as they stand in report.json, command by command.

Figures in dB, px, MB or seconds say so in their names. None stands for what cannot be had here, or is infinite.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from typing_extensions import NotRequired

PointPx = tuple[float, float]


# 1. What several commands measure


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


# 2. invert


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


# 3. edit


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


# 4. interpolate


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


# 5. drag


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


# 6. train


class DifferenceFigures(TypedDict):
    """Samples on which the regulariser's finite difference was checked, and for how many it was not right."""

    relative_step: float
    checked: int
    unresolved: int


class TrainFigures(TypedDict, total=False):
    """`last_tenth`: means of the losses; `bands`: samples and losses by timestep, over the last half."""

    skipped: int
    compiled_gradient_error: float
    steps: int
    samples: int
    pictures: int
    last_tenth: Mapping[str, float]
    samples_per_s: float
    bands: Mapping[str, Mapping[str, float]]
    difference: DifferenceFigures


# 7. istd


class IstdDefinition(TypedDict):
    """Which standard deviation, over which range of pixels."""

    std: str
    pixel_range: str


class IstdOfModel(TypedDict):
    """ISTD in the definition of the job, by every other, and per prompt."""

    istd: IntervalFigures
    definition: IstdDefinition
    by_definition: Mapping[str, Mapping[str, float]]
    size_normalised: IntervalFigures
    excluded: Sequence[str]
    per_prompt: Mapping[str, DeviationFigures]


class DecidedInterval(IntervalFigures):
    """Of a difference."""

    excludes_zero: bool


class IstdFigures(IstdOfModel, total=False):
    """Of the model, of the same with the LoRAs it is compared with, and the paired difference of the two."""

    compared: IstdOfModel
    difference: DecidedInterval
    ratio: float


# 8. eval


class EvalReconstruction(QualityFigures):
    """`stand_in` names the figure that stands for LPIPS, which has a key of that name here and per picture."""

    stand_in: NotRequired[str]
    per_picture: Mapping[str, Mapping[str, Any]]


class EvalFrechet(TypedDict, total=False):
    """`fid` in Inception's features, `clip_frechet_distance` in CLIP's; without each twentieth of the pictures."""

    fid: float
    clip_frechet_distance: float
    features: str
    pictures: Sequence[int]
    low: float
    high: float
    left_out: Sequence[float]


class EvalClipScore(TypedDict):
    """The mean of 100 max(cos, 0) by the CLIP that is named."""

    clip_score: IntervalFigures
    clip: str
    per_picture: Mapping[str, float]


class EvalWalk(TypedDict):
    """One folder of frames."""

    adjacent_l2: DeviationFigures
    path: PathLengthFigures


EvalWalks = dict[str, EvalWalk]


# 9. bench and tables

BenchColumns = Mapping[str, "float | None"]

BenchFigures = TypedDict(
    "BenchFigures",
    {
        "measured": BenchColumns,
        "no edit": BenchColumns,
        "counts": Mapping[str, int],
        "items": int,
        "failed": int,
        "seconds": "float | None",
        "unet_calls": "float | None",
        "rule": str,
        "missing": int,
    },
)


class CellFigures(TypedDict):
    """A figure of a table, the paper's, and where it comes from, or the reason why it is missing."""

    value: float | None
    low: float | None
    high: float | None
    report: str
    paper: float | None
    reason: str


class TableFigures(TypedDict):
    """A row is a label and its cells."""

    title: str
    note: str
    columns: Sequence[str]
    paper_columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[CellFigures]]]


class OrderingFigures(TypedDict):
    """A claim of the paper, and whether it holds here."""

    claim: str
    verdict: str
    evidence: str


class TablesFigures(TypedDict):
    """The paper's tables, and its claims."""

    tables: Sequence[TableFigures]
    orderings: Sequence[OrderingFigures]
