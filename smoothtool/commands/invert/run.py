"""`smoothtool invert`: one inversion file for many edits, and how well the picture comes back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from smoothtool.commands.invert.cached import (
    inversion_figures,
    invert_pictures,
    note_convergence,
    unguided_reconstruction,
)
from smoothtool.commands.invert.compare import compare_inversions
from smoothtool.commands.shared.cost import timed
from smoothtool.commands.shared.folders import result_folder
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.commands.shared.session import (
    begin,
    finish,
    fit_pictures,
    note_cropped,
    note_prompts,
    note_size,
    open_session,
    read_picture,
)
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.figures import InvertFigures
from smoothtool.files.pictures.fitting import at_input_size
from smoothtool.files.pictures.images import Fitted, crop_back, save_image, to_image
from smoothtool.files.storage.inversions import save_inversion
from smoothtool.metrics.reconstruction import reconstruction_quality
from smoothtool.recipe.documents import picture_document
from smoothtool.types import Report, Track

if TYPE_CHECKING:
    from smoothtool.jobs import InvertJob


def run(job: InvertJob, track: Track, pool: ModelPool | None = None) -> Report[InvertFigures]:
    """Invert one picture; leaves inversion.safetensors (+ .json), reconstruction.png, report.json, job.yaml."""
    pool = pool or ModelPool()
    job, report, track = begin(job, [job.image], track)
    opened = read_picture(job.image, track)
    with result_folder(report, job) as folder:
        # 1. model and picture
        with timed(report, "load"):
            model = open_session(job, track, pool)
            note_prompts(model, [job.src, job.negative], track)
            (picture,) = fit_pictures([opened], model, job.size)
            note_size(job.image, picture.original_size_px, picture.size_px, job.size, model, track)
            note_cropped([job.image], [picture], track)
        # 2. invert, measure and write
        if job.compare:
            compare_inversions(model, job, picture, track, report, folder)
        else:
            _invert(model, job, picture, track, report, folder, pool)
        finish(report, model, folder, pool)
    return report


def _invert(
    model: DiffusionModel,
    job: InvertJob,
    picture: Fitted,
    track: Track,
    report: Report[InvertFigures],
    folder: Path,
    pool: ModelPool,
) -> None:
    with timed(report, "invert"):
        inverted = invert_pictures(model, [picture], [job.src], job, track, pool)
    note_convergence(inverted.inversion, track)
    report.figures = inversion_figures(model, inverted)
    save_inversion(folder / "inversion.safetensors", inverted.inversion, inverted.info)
    names = {"reconstruction": "reconstruction.png", "guidance_1": "guidance-1.png"}
    pictures = {"reconstruction": crop_back(model.decode_latents(inverted.inversion.reconstruction), picture)}
    if job.inversion == "ddim":
        unguided = model.decode_latents(unguided_reconstruction(model, inverted.inversion, track))
        pictures["guidance_1"] = crop_back(unguided, picture)
        original = crop_back(picture.pixel_values, picture)
        report.figures["guidance_1"] = reconstruction_quality(original, pictures["guidance_1"])
    report.files = {"inversion": "inversion.safetensors", **{name: names[name] for name in pictures}}
    settings = picture_document(job.command, report.job, report.folder)
    for name, pixel_values in pictures.items():
        shown = to_image(pixel_values) if job.size else at_input_size(to_image(pixel_values), picture)
        save_image(shown, folder / names[name], settings=settings, parameters=None)
