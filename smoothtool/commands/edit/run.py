"""`smoothtool edit`: change a picture by words, by any of nine methods, from one inversion."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from smoothtool.commands.edit.compare import compare_edits
from smoothtool.commands.edit.methods import Source
from smoothtool.commands.edit.stages import Edit, clip_if_there, edit_figures, one_edit, open_source, ratios_of
from smoothtool.commands.invert.cached import inversion_figures, note_convergence
from smoothtool.commands.shared.cost import timed
from smoothtool.commands.shared.folders import result_folder
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.commands.shared.session import (
    SourceFile,
    begin,
    finish,
    note_cropped,
    note_prompts,
    note_size,
    open_session,
    open_sources,
)
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.figures import EditFigures
from smoothtool.files.drawing.sheets import before_after, contact_sheet
from smoothtool.files.pictures.fitting import at_input_size
from smoothtool.files.pictures.images import crop_back, save_image, to_image
from smoothtool.files.pictures.provenance import a1111_parameters
from smoothtool.files.storage.writing import write_picture
from smoothtool.jobs import chosen
from smoothtool.recipe.documents import picture_document
from smoothtool.types import Report, Track

if TYPE_CHECKING:
    from smoothtool.jobs import EditJob


def run(job: EditJob, track: Track, pool: ModelPool | None = None) -> Report[EditFigures]:
    """Edit one picture; leaves edited*.png, before-after.png, report.json, job.yaml; sheet.png for several."""
    pool = pool or ModelPool()
    job, report, track = begin(chosen(job), [job.image], track)
    (file,) = open_sources([job.image], track)
    with result_folder(report, job) as folder:
        # 1. model
        with timed(report, "load"):
            model = open_session(job, track, pool)
            prompts = [job.src, *job.trg, *job.src_sentence, *job.trg_sentence, job.negative]
            note_prompts(model, prompts, track)
        # 2. edit, measure and write
        (compare_edits if job.compare else _edit)(model, file, job, track, report, folder, pool)
        finish(report, model, folder, pool)
    return report


def _edit(
    model: DiffusionModel,
    file: SourceFile,
    job: EditJob,
    track: Track,
    report: Report[EditFigures],
    folder: Path,
    pool: ModelPool,
) -> None:
    """All targets and ratios from one inversion."""
    with timed(report, "invert"):
        source = open_source(model, file, job, track, pool)
    note_size(job.image, source.picture.original_size_px, source.picture.size_px, job.size, model, track)
    note_cropped([job.image], [source.picture], track)
    if source.inverted is not None:
        note_convergence(source.inverted.inversion, track)
    ratios = ratios_of(job)
    edits = [one_edit(source, target, ratio, pool) for target in job.trg for ratio in ratios]
    report.seconds["edit"] = sum(edit.cost.seconds for edit in edits)
    clip = clip_if_there(job, track)
    before = crop_back(source.picture.pixel_values, source.picture)
    names = _names(job, ratios)
    report.figures["edits"] = [
        {"file": name, "target": edit.target, **edit_figures(edit, before, clip)}
        for name, edit in zip(names, edits, strict=True)
    ]
    if source.inverted is not None and job.method != "pix2pix-zero":
        report.figures["inversion"] = inversion_figures(model, source.inverted)
    if file.inversion is not None:
        track.note("figures compare with the picture as the VAE gives it back: the file holds no other")
    _write(job, source, edits, names, report, folder)


def _names(job: EditJob, ratios: list[str]) -> list[str]:
    """`edited.png` (or of another format), or one name per combination."""
    several_targets, several_ratios = len(job.trg) > 1, len(ratios) > 1
    return [
        f"edited{f'-{number}' if several_targets else ''}{f'-r{ratio}' if several_ratios else ''}.{job.format}"
        for number in range(1, len(job.trg) + 1)
        for ratio in ratios
    ]


def _write(job: EditJob, source: Source, edits: list[Edit], names: list[str], report: Report, folder: Path) -> None:
    settings = picture_document(job.command, report.job, report.folder)
    before = to_image(crop_back(source.picture.pixel_values, source.picture))
    pictures = [to_image(edit.pixel_values) for edit in edits]
    for name, edit, picture in zip(names, edits, pictures, strict=True):
        parameters = a1111_parameters(
            prompt=edit.target,
            steps=job.steps,
            guidance_scale=job.guidance,
            seed=job.seed,
            size_px=picture.size,
            model=source.model.name,
            negative_prompt=job.negative,
        )
        shown = picture if job.size else at_input_size(picture, source.picture)
        save_image(shown, folder / name, settings=settings, parameters=parameters, quality=job.quality)
    pair = before_after(before, pictures[0], (job.src or "before", edits[0].target))
    write_picture(folder / "before-after.png", pair)
    report.files = {"edited": names, "before_after": "before-after.png"}
    if len(edits) > 1:
        columns = len(edits) // len(job.trg)
        rows = [[before, *pictures[at : at + columns]] for at in range(0, len(edits), columns)]
        heads = ["source", *(f"r = {edit.ratio}" if edit.ratio else "edited" for edit in edits[:columns])]
        write_picture(folder / "sheet.png", contact_sheet(rows, row_labels=job.trg, column_labels=heads))
        report.files["sheet"] = "sheet.png"
