"""`smoothtool drag --pick`: points and mask from the page in the browser, as often as the person likes."""

from __future__ import annotations

import webbrowser
from collections.abc import Iterable
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from smoothtool.commands.drag.page.server import PageRequest, PointPage
from smoothtool.commands.drag.picture import drag_picture
from smoothtool.commands.shared.session import open_session, start_report
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import SmoothtoolError, UsageError
from smoothtool.files.lists.points import write_points
from smoothtool.files.pictures.images import load_image
from smoothtool.files.storage.output import output_folder
from smoothtool.files.storage.writing import write_bytes_atomic
from smoothtool.types import Report, Track
from smoothtool.weights.sample_pictures import resolve_picture

if TYPE_CHECKING:
    from smoothtool.jobs import DragJob

T = TypeVar("T")


class PageTrack:
    """Progress on the page as well as on the terminal."""

    def __init__(self, page: PointPage, track: Track) -> None:
        self.page, self.track = page, track

    def __call__(self, items: Iterable[T], description: str, total: int) -> Iterable[T]:
        for done, item in enumerate(self.track(items, description, total), start=1):
            self.page.progress(description, done / max(1, total))
            yield item

    def note(self, text: str) -> None:
        self.track.note(text)

    def status(self, text: str) -> None:
        self.track.status(text)


def run_picked(job: DragJob, track: Track) -> Report:
    """Serve the page until Finish is pressed; every Run leaves a result folder of its own, beside what it was made of.

    Returns the report of the last run, or one that names the saved points.
    """
    if job.image is None:
        raise UsageError("--pick: there is no picture to click in", "smoothtool drag picture.png --pick")
    picture = load_image(resolve_picture(job.image))
    root = start_report(job, [job.image])
    folder = output_folder(root.folder, force=job.force)
    model: DiffusionModel | None = None
    report: Report | None = None
    with PointPage(picture) as page:
        track.note(f"open {page.url}")
        webbrowser.open(page.url)
        for request in page.requests():
            try:
                asked = _keep(job, request, folder)
                if request.action == "save":
                    report = report or root
                    page.say(f"saved in {folder}")
                    continue
                model = model or open_session(job, track)
                report = drag_picture(asked, PageTrack(page, track), model)
                page.show(load_image(report.folder / "dragged.png"))
            except SmoothtoolError as error:
                page.fail(str(error))
    if report is None:
        raise UsageError("--pick: the page was finished before anything was run or saved", "click two points, then Run")
    return report


def _keep(job: DragJob, request: PageRequest, folder: Path) -> DragJob:
    """Write points.json and mask.png; the job that uses them, with a result folder that does not exist yet."""
    folder.mkdir(parents=True, exist_ok=True)
    number = next(number for number in count(1) if not (folder / f"run-{number}").exists())
    write_points(folder / "points.json", request.points, job.src)
    mask = job.mask
    if request.mask_png is not None:
        mask = folder / f"mask-{number}.png"
        write_bytes_atomic(mask, request.mask_png)
    pairs = zip(request.points.handles_xy_px, request.points.targets_xy_px, strict=True)
    point = [f"{hx:g},{hy:g}:{tx:g},{ty:g}" for (hx, hy), (tx, ty) in pairs]
    changes = {"point": point, "points": None, "mask": mask, "pick": False, "output": folder / f"run-{number}"}
    return job.model_copy(update=changes)
