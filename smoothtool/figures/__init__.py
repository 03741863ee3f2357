"""What commands measure: the `figures` of their reports, as they stand in report.json, command by command.

Figures in dB, px, MB or seconds say so in their names. None stands for what cannot be had here, or is infinite.
"""

from smoothtool.figures.models import (
    BenchColumns,
    BenchFigures,
    CellFigures,
    EvalClipScore,
    EvalFrechet,
    EvalReconstruction,
    EvalWalks,
    IstdFigures,
    OrderingFigures,
    TableFigures,
    TablesFigures,
    TrainFigures,
)
from smoothtool.figures.pictures import (
    ComparedEdit,
    ComparedInversion,
    ComparedMorph,
    DragFigures,
    DragPathFigures,
    EditFigures,
    EditQuality,
    InterpolateFigures,
    InvertFigures,
    MorphQuality,
    OpeningFigures,
)
from smoothtool.figures.shared import (
    CostFigures,
    DeviationFigures,
    IntervalFigures,
    PathLengthFigures,
    PictureQuality,
    QualityFigures,
)

__all__ = [
    "BenchColumns",
    "BenchFigures",
    "CellFigures",
    "ComparedEdit",
    "ComparedInversion",
    "ComparedMorph",
    "CostFigures",
    "DeviationFigures",
    "DragFigures",
    "DragPathFigures",
    "EditFigures",
    "EditQuality",
    "EvalClipScore",
    "EvalFrechet",
    "EvalReconstruction",
    "EvalWalks",
    "InterpolateFigures",
    "IntervalFigures",
    "InvertFigures",
    "IstdFigures",
    "MorphQuality",
    "OpeningFigures",
    "OrderingFigures",
    "PathLengthFigures",
    "PictureQuality",
    "QualityFigures",
    "TableFigures",
    "TablesFigures",
    "TrainFigures",
]
