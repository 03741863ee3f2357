"""What is measured of models, and of pictures that exist: train, istd, eval, bench, tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from smoothtool.figures.shared import DeviationFigures, IntervalFigures, PathLengthFigures, QualityFigures

if TYPE_CHECKING:
    from typing_extensions import NotRequired


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
