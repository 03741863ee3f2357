"""`smoothtool drag --pick`: points and mask from the page in the browser, as often as the person likes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from smoothtool.commands.drag.page.server import PageRequest, PointPage
from smoothtool.commands.drag.picture import drag_picture
from smoothtool.commands.shared.browser import open_in_browser
from smoothtool.commands.shared.folders import stopped_with
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.commands.shared.session import begin, next_free, open_picture
from smoothtool.errors import InputError, StorageError, UsageError, explain
from smoothtool.files.lists.points import write_points
from smoothtool.files.pictures.images import load_image
from smoothtool.files.storage.output import create_folder, output_folder
from smoothtool.files.storage.writing import write_bytes_atomic
from smoothtool.types import Report, Track

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

    def tell(self, text: str) -> None:
        self.track.tell(text)

    def status(self, text: str) -> None:
        self.track.status(text)


def run_picked(job: DragJob, track: Track, pool: ModelPool) -> Report:
    """Serve the page until Finish is pressed; every Run leaves a result folder of its own, beside what it was made of.

    Returns the report of the last run, or one that names the saved points.
    """
    if job.image is None:
        raise UsageError("--pick: there is no picture to click in", "smoothtool drag picture.png --pick")
    job, root, track = begin(job, [job.image], track)
    picture = open_picture(str(job.image), track)
    output_folder(root.folder, force=job.force)
    picked = _Picked(job, root, pool)
    with PointPage(picture) as page, stopped_with(picked.kept):
        track.tell(f"open {page.url}")
        open_in_browser(page.url_for_browser)
        for request in page.requests():
            picked.answer(request, page, track)
    if picked.report is None:
        raise UsageError("--pick: the page was finished before anything was run or saved", "click two points, then Run")
    return picked.report


@dataclass
class _Picked:
    """What has come of the page so far; the model stays in the pool from one Run to the next."""

    job: DragJob
    root: Report
    pool: ModelPool
    report: Report | None = None
    made: bool = False

    def answer(self, request: PageRequest, page: PointPage, track: Track) -> None:
        """Run or save; whatever goes wrong is shown on the page, where the person may try again."""
        try:
            self._make_folder()
            asked = _keep(self.job, request, self.root.folder)
            if request.action == "save":
                self.report = self.report or self.root
                page.say(f"saved in {self.root.folder}")
                return
            self.report = drag_picture(asked, PageTrack(page, track), self.pool)
            page.show(load_image(self.report.folder / f"dragged.{self.job.format}"))
        except (UsageError, InputError, StorageError) as error:
            page.fail(str(error))
        except Exception as error:
            self.pool.drop()  # its model may have been left changed
            page.fail(str(explain(error)))

    def kept(self) -> str:
        return f"what was run and saved is in {self.root.folder}" if self.report is not None else ""

    def _make_folder(self) -> None:
        if not self.made:
            moved_on = None if self.job.output else lambda: next_free(self.root.folder)
            self.root.folder, self.made = create_folder(self.root.folder, moved_on), True


def _keep(job: DragJob, request: PageRequest, folder: Path) -> DragJob:
    """Write points.json and mask.png; the job that uses them, with a result folder that does not exist yet."""
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
