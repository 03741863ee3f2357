"""What `--compare` of `invert`, `edit` and `interpolate` writes: a labelled sheet and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from smoothtool.files.drawing.markdown import markdown_table
from smoothtool.files.drawing.sheets import contact_sheet
from smoothtool.files.pictures.images import to_image
from smoothtool.files.storage.writing import write_picture, write_text_atomic
from smoothtool.types import Report

Row = Mapping[str, object]


def write_comparison(rows: Sequence[Row], shown: Mapping[str, torch.Tensor], report: Report, folder: Path) -> None:
    """compare.png and compare.md, named in the report."""
    pictures, labels = [to_image(picture) for picture in shown.values()], list(shown)
    across = -(-len(pictures) // 2)
    halves = (slice(0, across), slice(across, None))
    sheet = contact_sheet([pictures[half] for half in halves], [labels[half] for half in halves])
    write_table(rows, sheet, report, folder)


def write_table(rows: Sequence[Row], sheet: Image.Image, report: Report, folder: Path) -> None:
    """The same with a sheet that is drawn already."""
    write_picture(folder / "compare.png", sheet)
    write_text_atomic(folder / "compare.md", markdown_table(rows))
    report.files = {"sheet": "compare.png", "table": "compare.md"}
