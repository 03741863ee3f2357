"""`smoothtool drag`: parts of a picture to other places."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smoothtool.commands.drag.picture import drag_picture
from smoothtool.commands.drag.stages import first_step
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.errors import UsageError
from smoothtool.types import Report, Track

if TYPE_CHECKING:
    from smoothtool.jobs import DragJob


def run(job: DragJob, track: Track, pool: ModelPool | None = None) -> Report:
    """Drag; leaves dragged.png, before-after.png, trajectory.webp, points.json, report.json, job.yaml."""
    pool = pool or ModelPool()
    first_step(job)
    if job.pick:
        raise UsageError("pick: the page is opened by the command line alone", "smoothtool drag picture.png --pick")
    return drag_picture(job, track, pool)
