"""`invert --compare` and `edit --compare`: every method on one picture, one labelled sheet, one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from smoothtool.commands.edit.methods import EDITS
from smoothtool.commands.edit.stages import (
    DEFAULT_RATIO,
    clip_if_there,
    edit_figures,
    inversion_for,
    one_edit,
    open_source,
)
from smoothtool.commands.invert.cached import compute_inversion, note_convergence, note_size
from smoothtool.commands.shared.cost import Cost, measured
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import constant, denoise
from smoothtool.errors import SmoothtoolError
from smoothtool.files.drawing.markdown import markdown_table
from smoothtool.files.drawing.sheets import contact_sheet
from smoothtool.files.pictures.images import Fitted, crop_back, to_image
from smoothtool.files.storage.writing import write_text_atomic
from smoothtool.jobs import INVERSION_NAMES, NEED_SOURCE
from smoothtool.metrics.clip_score import Clip
from smoothtool.metrics.reconstruction import reconstruction_quality
from smoothtool.types import Inversion, Report, Track

if TYPE_CHECKING:
    from smoothtool.jobs import EditJob, InvertJob

Row = dict[str, Any]
QUALITY = ("mse", "psnr_db", "ssim", "lpips")


def compare_inversions(
    model: DiffusionModel, job: InvertJob, picture: Fitted, track: Track, report: Report, folder: Path
) -> None:
    """Every inversion afresh, past the cache, beside the VAE alone, which is the ceiling."""
    original = crop_back(picture.pixel_values, picture)
    rows: list[Row] = []
    shown = {"source": original}

    def add(name: str, latents: torch.Tensor, cost: Cost | None = None) -> None:
        given_back = crop_back(model.decode_latents(latents), picture)
        quality = reconstruction_quality(original, given_back)
        rows.append({"inversion": name, **{key: quality[key] for key in QUALITY}, **_cost(cost or Cost())})
        shown[name] = given_back

    add("VAE alone", model.encode_images(picture.pixel_values))
    for name in INVERSION_NAMES:
        try:
            with measured(model) as cost:
                wanted = job.model_copy(update={"inversion": name})
                inversion = compute_inversion(model, [picture], [job.src], wanted, track)
        except SmoothtoolError as error:
            report.notes.append(f"{name} is left out: {error}")
            continue
        note_convergence(inversion, track, report)
        add(name, inversion.reconstruction, cost)
        if name == "ddim":
            with measured(model) as cost:
                unguided = unguided_reconstruction(model, inversion, track)
            add("ddim, guidance 1", unguided, cost)
    _write(rows, shown, report, folder)


def unguided_reconstruction(model: DiffusionModel, inversion: Inversion, track: Track) -> torch.Tensor:
    """DDIM's own latents [B, C, h, w] at guidance 1: what the papers' inversion error is without guidance."""
    text = constant(model.encode_prompts(inversion.prompts))
    steps = denoise(model, inversion.trajectory.noise, text, text, inversion.num_inference_steps, 1.0)
    *_, last = track(steps, "reconstructing at guidance 1", inversion.num_inference_steps)
    return last.latents


def compare_edits(model: DiffusionModel, job: EditJob, track: Track, report: Report, folder: Path) -> None:
    """Every editing method with its own choice of inversion, on the first target and ratio."""
    clip = clip_if_there(job, report)
    rows: list[Row] = []
    shown: dict[str, torch.Tensor] = {}
    failed: SmoothtoolError | None = None
    for method in EDITS:
        if method in NEED_SOURCE and not job.src.strip():
            report.notes.append(f"{method} is left out: it compares two prompts, and there is no --src")
            continue
        try:
            row, before, after = _method(model, job.model_copy(update={"method": method}), track, clip, report)
        except SmoothtoolError as error:
            failed = error
            report.notes.append(f"{method} is left out: {error}")
            continue
        rows.append(row)
        shown = {"source": before, **shown, method: after}
    if failed is not None and not rows:
        raise failed
    _write(rows, shown, report, folder)


def _method(
    model: DiffusionModel, job: EditJob, track: Track, clip: Clip | None, report: Report
) -> tuple[Row, torch.Tensor, torch.Tensor]:
    """(row of the table, source picture, edited picture)."""
    job = job.model_copy(update={"inversion": "auto"})
    with measured(model) as opening:
        source = open_source(model, job, track)
    edit = one_edit(source, job.trg[0], (job.ratio or [DEFAULT_RATIO])[0])
    before = crop_back(source.picture.pixel_values, source.picture)
    figures = edit_figures(edit, before, clip)
    inverted = source.inverted
    note_size(job.image, source.picture.original_size_px, source.picture.size_px, job.size, track, report)
    if inverted is not None:
        note_convergence(inverted.inversion, track, report)
    row = {
        "method": job.method,
        "inversion": inversion_for(job) or "none",
        "psnr_to_source_db": figures["to_source"]["psnr_db"],
        "ssim_to_source": figures["to_source"]["ssim"],
        "clip_score": figures.get("clip_score"),
        "inversion_unet_calls": 0 if inverted is None else inverted.inversion.unet_calls,
        "inversion_seconds": None if inverted is not None and inverted.cached else opening.seconds,
        **_cost(edit.cost),
    }
    return row, before, edit.pixel_values


def _cost(cost: Cost) -> Row:
    return {"unet_calls": cost.unet_calls, "seconds": cost.seconds, "peak_memory_mb": cost.peak_memory_mb}


def _write(rows: Sequence[Row], shown: Mapping[str, torch.Tensor], report: Report, folder: Path) -> None:
    """compare.png, compare.md, and the rows in the report."""
    pictures, labels = [to_image(picture) for picture in shown.values()], list(shown)
    across = -(-len(pictures) // 2)
    halves = (slice(0, across), slice(across, None))
    contact_sheet([pictures[half] for half in halves], [labels[half] for half in halves]).save(folder / "compare.png")
    write_text_atomic(folder / "compare.md", markdown_table(rows))
    report.figures["compare"] = list(rows)
    report.files = {"sheet": "compare.png", "table": "compare.md"}
