"""`smoothtool interpolate`: pictures into each other, or a walk between two noises."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from smoothtool.commands.interpolate.compare import compare_morphs
from smoothtool.commands.interpolate.grid import Grid, corner_names, grid_between, grid_sheet
from smoothtool.commands.interpolate.stages import Ends, Frames, frames_between, open_ends
from smoothtool.commands.invert.cached import inversion_figures, note_convergence
from smoothtool.commands.shared.cost import timed
from smoothtool.commands.shared.folders import result_folder
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.commands.shared.session import (
    SourceFile,
    begin,
    finish,
    note_cropped,
    note_far_size,
    note_prompts,
    note_size,
    open_session,
    open_sources,
)
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.figures import InterpolateFigures
from smoothtool.files.drawing.sheets import contact_sheet
from smoothtool.files.pictures.images import a1111_parameters, save_image, to_image
from smoothtool.files.pictures.sequences import check_mp4, save_apng, save_gif, save_mp4, save_webm, save_webp
from smoothtool.files.storage.writing import write_picture
from smoothtool.recipe.documents import picture_document
from smoothtool.types import Report, Track

if TYPE_CHECKING:
    from smoothtool.jobs import InterpolateJob

ANID_STEPS = 200
SEEDED = ("anid", "freemorph")
"""Methods between pictures that bring noise of their own."""


def run(job: InterpolateJob, track: Track, pool: ModelPool | None = None) -> Report[InterpolateFigures]:
    """Make the sequence; leaves frames/, sheet.png, the videos, report.json, job.yaml. A grid leaves no videos.

    Compared, all methods leave compare.png and compare.md.
    """
    pool = pool or ModelPool()
    if job.mp4:
        check_mp4()
    job, report, track = begin(job, job.images or [job.prompt or "walk"], track)
    files = open_sources(job.images, track)
    with result_folder(report, job) as folder:
        # 1. model
        with timed(report, "load"):
            model = open_session(job, track, pool)
            note_prompts(model, [*job.src, job.prompt or "", job.negative], track)
        # 2. ends, frames, figures, files
        (compare_morphs if job.compare else _morph)(model, files, job, track, report, folder, pool)
        finish(report, model, folder, pool)
    return report


def _morph(
    model: DiffusionModel,
    files: Sequence[SourceFile],
    job: InterpolateJob,
    track: Track,
    report: Report[InterpolateFigures],
    folder: Path,
    pool: ModelPool,
) -> None:
    """One sequence by one method, or a grid."""
    if job.method == "anid" and job.steps < ANID_STEPS:
        track.note(f"anid is published with {ANID_STEPS} steps and more, here it has {job.steps}")
    with timed(report, "invert"):
        ends = open_ends(model, files, job, track, pool)
        if ends.fitted is not None:
            note_size(job.images[0], ends.fitted.original_size_px, ends.fitted.size_px, job.size, model, track)
            note_cropped(job.images, ends.pictures, track)
        else:
            note_far_size(model.picture_size_px(ends.images.shape), model, track)
        if ends.inverted is not None:
            note_convergence(ends.inverted.inversion, track)
    with timed(report, "sample"):
        frames = (grid_between if job.grid else frames_between)(model, ends, job, track)
    with timed(report, "write"):
        report.figures = frames.figures()
        if ends.inverted is not None:
            report.figures["inversion"] = inversion_figures(model, ends.inverted)
        pictures = [to_image(frame) for frame in frames.pixel_values]
        names = _write_frames(folder, pictures, _parameters(model, ends, frames, job), job, report)
        if isinstance(frames, Grid):
            write_picture(folder / "sheet.png", grid_sheet(frames, pictures, corner_names(ends, job.images)))
            report.files = {"frames": names, "sheet": "sheet.png"}
        else:
            report.files = {"frames": names, **_write_films(folder, pictures, job)}


def _parameters(model: DiffusionModel, ends: Ends, frames: Frames | Grid, job: InterpolateJob) -> str | None:
    """A1111's text, the same for every frame; None where nothing was sampled."""
    if job.method == "vae":
        return None
    height, width = frames.pixel_values.shape[-2:]
    seed = job.seed if job.method in SEEDED or not job.images else None
    prompt = (" + " if job.grid else " -> ").join(dict.fromkeys(ends.prompts))
    return a1111_parameters(
        prompt=prompt,
        steps=job.steps,
        guidance_scale=job.guidance,
        seed=seed,
        size_px=(width, height),
        model=model.name,
        negative_prompt=job.negative,
    )


def _write_frames(
    folder: Path, pictures: Sequence[Image.Image], parameters: str | None, job: InterpolateJob, report: Report
) -> list[str]:
    """Their names in the folder, in order."""
    settings = picture_document(job.command, report.job, report.folder)
    (folder / "frames").mkdir()
    digits = max(3, len(str(len(pictures) - 1)))
    names = [f"frames/{index:0{digits}d}.{job.format}" for index in range(len(pictures))]
    for name, picture in zip(names, pictures, strict=True):
        save_image(
            picture,
            folder / name,
            settings=settings,
            parameters=parameters,
            quality=job.quality,
            digital_source="compositeWithTrainedAlgorithmicMedia" if job.images else "trainedAlgorithmicMedia",
        )
    return names


def _write_films(folder: Path, pictures: list[Image.Image], job: InterpolateJob) -> dict[str, str]:
    shown = pictures[:-1] if job.loop else pictures  # a loop shows its first frame once a round
    save_webp(shown, folder / "walk.webp", job.fps, ping_pong=not job.loop)
    save_webm(shown, folder / "walk.webm", job.fps)
    if job.gif:
        save_gif(shown, folder / "walk.gif", job.fps, ping_pong=not job.loop)
    if job.apng:
        save_apng(shown, folder / "walk.apng", job.fps, ping_pong=not job.loop)
    if job.mp4:
        save_mp4(shown, folder / "walk.mp4", job.fps)
    write_picture(folder / "sheet.png", contact_sheet(_rows(pictures)))
    asked = {kind: f"walk.{kind}" for kind in ("gif", "apng", "mp4") if getattr(job, kind)}
    return {"sheet": "sheet.png", "webp": "walk.webp", "webm": "walk.webm", **asked}


def _rows(pictures: Sequence[Image.Image], widest: int = 11) -> list[list[Image.Image]]:
    return [list(pictures[at : at + widest]) for at in range(0, len(pictures), widest)]
