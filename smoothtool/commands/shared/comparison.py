"""What `--compare` of `invert`, `edit` and `interpolate` writes: a labelled sheet, a table, its rows in the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from smoothtool.commands.shared.cost import Cost
from smoothtool.files.drawing.markdown import markdown_table
from smoothtool.files.drawing.sheets import contact_sheet
from smoothtool.files.pictures.images import to_image
from smoothtool.files.storage.writing import write_picture, write_text_atomic
from smoothtool.types import Report

Row = dict[str, Any]


def cost_columns(cost: Cost) -> Row:
    """The columns of a table's row that say what it cost."""
    return {"unet_calls": cost.unet_calls, "seconds": cost.seconds, "peak_memory_mb": cost.peak_memory_mb}


def write_comparison(rows: Sequence[Row], shown: Mapping[str, torch.Tensor], report: Report, folder: Path) -> None:
    """compare.png, compare.md, and the rows in the report."""
    pictures, labels = [to_image(picture) for picture in shown.values()], list(shown)
    across = -(-len(pictures) // 2)
    halves = (slice(0, across), slice(across, None))
    sheet = contact_sheet([pictures[half] for half in halves], [labels[half] for half in halves])
    write_table(rows, sheet, report, folder)


def write_table(rows: Sequence[Row], sheet: Image.Image, report: Report, folder: Path) -> None:
    """The same with a sheet that is drawn already."""
    write_picture(folder / "compare.png", sheet)
    write_text_atomic(folder / "compare.md", markdown_table(rows))
    report.figures["compare"] = list(rows)
    report.files = {"sheet": "compare.png", "table": "compare.md"}
