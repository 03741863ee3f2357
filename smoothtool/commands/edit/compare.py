"""`edit --compare`: every method on one picture, one labelled sheet, one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from smoothtool.commands.edit.methods import EDITS
from smoothtool.commands.edit.stages import (
    clip_if_there,
    edit_figures,
    inversion_for,
    one_edit,
    open_source,
)
from smoothtool.commands.invert.cached import note_convergence
from smoothtool.commands.shared.comparison import write_comparison
from smoothtool.commands.shared.cost import measured
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.commands.shared.session import SourceFile, note_size
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import SmoothtoolError
from smoothtool.figures import ComparedEdit, EditFigures
from smoothtool.files.pictures.images import crop_back
from smoothtool.jobs import DEFAULT_RATIO, NEED_SOURCE
from smoothtool.metrics.clip_score import Clip
from smoothtool.types import Report, Track

if TYPE_CHECKING:
    from smoothtool.jobs import EditJob


def compare_edits(
    model: DiffusionModel,
    file: SourceFile,
    job: EditJob,
    track: Track,
    report: Report[EditFigures],
    folder: Path,
    pool: ModelPool,
) -> None:
    """Every editing method with its own choice of inversion, on the first target and ratio."""
    clip = clip_if_there(job, track)
    rows: list[ComparedEdit] = []
    shown: dict[str, torch.Tensor] = {}
    failed: SmoothtoolError | None = None
    for method in EDITS:
        if method in NEED_SOURCE and not job.src.strip():
            track.note(f"{method} is left out: it compares two prompts, and there is no --src")
            continue
        try:
            wanted = job.model_copy(update={"method": method, "inversion": "auto"})
            row, before, after = _method(model, file, wanted, track, clip, pool)
        except SmoothtoolError as error:
            failed = error
            track.note(f"{method} is left out: {error}")
            continue
        rows.append(row)
        shown = {"source": before, **shown, method: after}
    if failed is not None and not rows:
        raise failed
    report.figures["compare"] = rows
    write_comparison(rows, shown, report, folder)


def _method(
    model: DiffusionModel, file: SourceFile, job: EditJob, track: Track, clip: Clip | None, pool: ModelPool
) -> tuple[ComparedEdit, torch.Tensor, torch.Tensor]:
    """(row of the table, source picture, edited picture)."""
    with measured(model) as opening:
        source = open_source(model, file, job, track, pool)
    edit = one_edit(source, job.trg[0], (job.ratio or [DEFAULT_RATIO])[0], pool)
    before = crop_back(source.picture.pixel_values, source.picture)
    figures = edit_figures(edit, before, clip)
    inverted = source.inverted
    note_size(job.image, source.picture.original_size_px, source.picture.size_px, job.size, model, track)
    if inverted is not None:
        note_convergence(inverted.inversion, track)
    row: ComparedEdit = {
        "method": job.method,
        "inversion": inversion_for(job) or "none",
        "psnr_to_source_db": figures["to_source"]["psnr_db"],
        "ssim_to_source": figures["to_source"]["ssim"],
        "clip_score": figures.get("clip_score"),
        "inversion_unet_calls": 0 if inverted is None else inverted.inversion.unet_calls,
        "inversion_seconds": None if inverted is not None and inverted.cached else opening.seconds,
        **edit.cost.figures(),
    }
    return row, before, edit.pixel_values
