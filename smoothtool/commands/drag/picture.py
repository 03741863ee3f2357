"""One picture dragged: what is asked of it, the drag, and the files that it leaves."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from smoothtool.commands.drag.identity import identity_lora
from smoothtool.commands.drag.stages import (
    GRID_PX,
    Dragged,
    Opened,
    drag,
    generated_size_px,
    grid_size,
    open_picture,
    open_prompt,
)
from smoothtool.commands.drag.warping import Unwarped, open_to_warp, warp
from smoothtool.commands.shared.cost import peak_memory_mb, timed
from smoothtool.commands.shared.folders import result_folder
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.commands.shared.session import (
    begin,
    finish,
    note_far_size,
    note_prompts,
    note_size,
    open_session,
    read_picture,
)
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import UsageError
from smoothtool.figures import DragFigures, DragPathFigures
from smoothtool.files.drawing.sheets import before_after
from smoothtool.files.drawing.trajectory import trajectory_frames
from smoothtool.files.lists.points import (
    check_mask,
    check_points,
    load_mask,
    points_from_numbers,
    read_points,
    write_points,
)
from smoothtool.files.pictures.images import a1111_parameters, save_image
from smoothtool.files.pictures.sequences import save_webp
from smoothtool.files.storage.writing import write_picture
from smoothtool.jobs import parse_point
from smoothtool.methods.drag.dragdiffusion import DragSettings
from smoothtool.recipe.documents import picture_document
from smoothtool.types import DragPoints, Files, Report, Track

if TYPE_CHECKING:
    from smoothtool.jobs import DragJob

FPS = 12
KEEP_WITHIN = ("dragdiffusion", "gooddrag")
"""Methods whose mask says where the picture may change; for the others it is what moves."""
FADE_SHARE = 128
"""The fade inside a mask's border is so many times narrower than the picture is long."""


@dataclass(frozen=True)
class DragRequest:
    """What is asked of one picture.

    picture  None where it is made from the prompt
    name     of the picture in notes
    """

    picture: Image.Image | None
    points: DragPoints
    mask: np.ndarray | None
    prompt: str
    name: str = ""


def drag_picture(job: DragJob, track: Track, pool: ModelPool) -> Report[DragFigures]:
    """One picture from its file, or from the prompt it is made of, to its folder."""
    report: Report[DragFigures]
    job, report, track = begin(job, [job.image or job.prompt or "drag"], track)
    picture = read_picture(job.image, track) if job.image else None
    with result_folder(report, job) as folder:
        # 1. picture, points and mask; then the model, which takes seconds to load
        with timed(report, "load"):
            request = read_request(job, picture, picture.size) if picture else None
            model = open_session(job, track, pool)
            request = request or read_request(job, None, generated_size_px(model, job))
            note_prompts(model, [request.prompt, job.negative], track)
        # 2. drag
        dragged = drag_one(model, request, job, track)
        report.seconds |= dragged.seconds
        # 3. write
        with timed(report, "write"):
            peak_mb = round(peak_memory_mb(model.device) or 0)
            report.figures = {**drag_figures(request.points, dragged), "peak_memory_mb": peak_mb}
            report.files = _write(folder, request, dragged, job, model, report)
        finish(report, model, folder, pool)
    return report


def read_request(job: DragJob, picture: Image.Image | None, size_px: tuple[int, int]) -> DragRequest:
    """Points and mask from flags or files, checked against a picture of that (width, height)."""
    mask, prompt = None, (job.src if picture else job.prompt) or ""
    if job.points is not None:
        item = read_points(job.points)
        points, prompt = item.points, prompt or item.prompt
        if item.mask is not None and job.mask is None:
            mask = item.mask
            check_mask(mask, size_px, job.points)
    else:
        points = points_from_numbers([parse_point(text) for text in job.point])
    check_points(points, size_px, job.points)
    if job.mask is not None:
        mask = load_mask(job.mask, size_px, fit=job.fit_mask)
    return DragRequest(picture, points, mask, prompt, job.image or "the picture")


def drag_one(model: DiffusionModel, request: DragRequest, job: DragJob, track: Track) -> Dragged:
    """Learn the picture, open it, drag in it; the result knows the seconds of each station."""
    started, seconds = time.perf_counter(), dict[str, float]()

    def lap(name: str) -> None:
        nonlocal started
        now = time.perf_counter()
        seconds[name], started = now - started, now

    picture = request.picture
    if picture is None and job.guidance < 1:
        raise UsageError(
            f"--guidance {job.guidance:g}: a picture from a prompt is dragged with 1 or more", "--guidance 1"
        )
    with identity_lora(model, picture, request.prompt, job, track) if picture else nullcontext():
        lap("lora")
        opened = _open(model, request, job, track)
        lap("invert" if picture else "generate")
        if picture is not None:
            note_size(request.name, opened.size_px, opened.working_size_px, job.size, model, track)
        else:
            note_far_size(opened.working_size_px, model, track)
        if isinstance(opened, Unwarped):
            dragged = warp(model, opened, request.points, request.mask, job, track)
        else:
            _note_near_points(request, opened, track)
            dragged = drag(model, opened, request.points, request.mask, job, track)
    dragged = replace(dragged, seconds=seconds | dragged.seconds)
    if request.mask is not None and job.method in KEEP_WITHIN:
        kept = kept_outside(picture or dragged.before, dragged.after, request.mask)
        dragged = replace(dragged, after=kept)
    return dragged


def _open(model: DiffusionModel, request: DragRequest, job: DragJob, track: Track) -> Opened | Unwarped:
    if job.method == "warp":
        return open_to_warp(model, request.picture, job, track)
    if request.picture is None:
        return open_prompt(model, job, track)
    return open_picture(model, request.picture, request.prompt, job, track)


def kept_outside(before: Image.Image, after: Image.Image, mask: np.ndarray) -> Image.Image:
    """The dragged picture with the original's own pixels where the mask, bool [H, W], forbids changes.

    They would differ a little: the VAE gives no picture back exactly. Inside, the first pixels fade over.
    """
    light = Image.fromarray(mask).convert("L")
    blurred = light.filter(ImageFilter.GaussianBlur(max(after.size) / FADE_SHARE))
    inwards = np.clip(2 * np.asarray(blurred, dtype=np.int16) - 255, 0, 255) * mask
    return Image.composite(after.convert("RGB"), before.convert("RGB"), Image.fromarray(inwards.astype(np.uint8)))


def drag_figures(points: DragPoints, dragged: Dragged) -> DragPathFigures:
    """Per point how far it had to go and how far it still has to, by the tracking; per iteration loss and handles.

    FastDrag and warp do not track: what they left is not known without measuring the picture.
    """
    ends = dragged.path[-1].handles_xy_px if dragged.path else None
    pairs = list(zip(points.handles_xy_px, points.targets_xy_px, strict=True))
    left = [math.dist(end, target) for end, (_, target) in zip(ends, pairs, strict=True)] if ends else None
    return {
        "points": [
            {"handle": handle, "target": target, "distance_px": math.dist(handle, target)} for handle, target in pairs
        ],
        "distance_left_px": left,
        "arrived": dragged.arrived if ends else None,
        "iterations": [{"loss": one.loss, "handles_xy_px": one.handles_xy_px} for one in dragged.path],
    }


def _note_near_points(request: DragRequest, opened: Opened, track: Track) -> None:
    """Note the points that count as arrived from the start: nothing will happen to them."""
    points = request.points
    arrived = DragSettings().on_grid(grid_size(opened)).arrived
    near_px = arrived * GRID_PX * opened.size_px[0] / opened.working_size_px[0]
    for handle, target in zip(points.handles_xy_px, points.targets_xy_px, strict=True):
        if math.dist(handle, target) < near_px:
            x, y = handle
            near = f"the point {x:g},{y:g} is within {near_px:g} px of its target"
            track.note(f"{request.name}: {near}: it counts as arrived")


def _write(
    folder: Path, request: DragRequest, dragged: Dragged, job: DragJob, model: DiffusionModel, report: Report
) -> Files:
    before = request.picture or dragged.before
    parameters = a1111_parameters(
        prompt=request.prompt,
        steps=job.steps,
        guidance_scale=1.0 if request.picture else job.guidance,
        seed=job.seed,
        size_px=dragged.after.size,
        model=model.name,
        negative_prompt=job.negative,
    )
    settings = picture_document(job.command, report.job, report.folder)
    name = f"dragged.{job.format}"
    save_image(dragged.after, folder / name, settings=settings, parameters=parameters, quality=job.quality)
    write_picture(folder / "before-after.png", before_after(before, dragged.after))
    path = [one.handles_xy_px for one in dragged.path] or _straight(request.points)
    save_webp(
        trajectory_frames(before, dragged.after, request.points, path), folder / "trajectory.webp", FPS, ping_pong=False
    )
    write_points(folder / "points.json", request.points, request.prompt)
    names = (name, "before-after.png", "trajectory.webp", "points.json")
    return {name.partition(".")[0].replace("-", "_"): name for name in names}


def _straight(points: DragPoints, count: int = FPS) -> list[tuple[tuple[float, float], ...]]:
    """The way of handles that were moved at once: straight, in one second."""
    pairs = list(zip(points.handles_xy_px, points.targets_xy_px, strict=True))
    shares = [step / (count - 1) for step in range(count)]
    return [tuple((x + s * (tx - x), y + s * (ty - y)) for (x, y), (tx, ty) in pairs) for s in shares]
