"""`smoothtool drag`: parts of a picture to other places."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smoothtool.commands.drag.pick import run_picked
from smoothtool.commands.drag.picture import drag_picture
from smoothtool.commands.drag.stages import first_step
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.types import Report, Track

if TYPE_CHECKING:
    from smoothtool.jobs import DragJob


def run(job: DragJob, track: Track, pool: ModelPool | None = None) -> Report:
    """Drag; leaves dragged.png, before-after.png, trajectory.webp, points.json, report.json, job.yaml.

    With --pick it drags what is clicked on a page in the browser.
    """
    pool = pool or ModelPool()
    first_step(job)
    if job.pick:
        return run_picked(job, track, pool)
    return drag_picture(job, track, pool)
