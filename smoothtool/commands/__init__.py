"""One folder per verb: each `run.py` tells the story of its command, the files beside it hold its parts."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from smoothtool.commands.shared.model_pool import ModelPool

if TYPE_CHECKING:
    from smoothtool.jobs import Job
    from smoothtool.types import Report, Track


def run_job(job: Job, track: Track, pool: ModelPool | None = None) -> Report:
    """Run the command that the job is for, with a model from the pool; with one of its own where there is no pool."""
    pool = pool or ModelPool()
    try:
        report: Report = importlib.import_module(f"smoothtool.commands.{job.command}.run").run(job, track, pool)
        return report
    finally:
        if job.changes_model:
            pool.drop()
