"""Where results go: whole at the end, or growing by records; whether there is room; what a stopped run keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from smoothtool.commands.shared.room import room_bytes
from smoothtool.commands.shared.session import next_free
from smoothtool.errors import Stopped
from smoothtool.files.storage.growing import GrowingFolder, growing_folder
from smoothtool.files.storage.output import free_space_check, new_folder
from smoothtool.files.storage.reports import report_dict
from smoothtool.files.storage.writing import write_json_atomic
from smoothtool.types import Report

if TYPE_CHECKING:
    from smoothtool.jobs import ReportJob


@contextmanager
def result_folder(report: Report, job: ReportJob) -> Iterator[Path]:
    """Fill the folder handed out, which becomes `report.folder`; a name that nobody chose moves on when another run
    has taken it meanwhile.

    Raises: UsageError and StorageError as `output_folder` does, before anything is computed.
    """
    free_space_check(report.folder, room_bytes(job))
    with new_folder(report.folder, job.force, None if job.output else partial(_move_on, report)) as folder:
        yield folder


def growing_result(
    report: Report, job: ReportJob, is_ours: Callable[[Path], bool], *, force: bool | None = None
) -> GrowingFolder:
    """`report.folder` for a command that goes on where it stopped: checked, and as it was.

    is_ours  whether a folder holds work of this command
    force    begin again; as the job says when left out
    Raises: UsageError and StorageError.
    """
    free_space_check(report.folder, room_bytes(job))
    found = growing_folder(
        report.folder,
        is_ours=is_ours,
        force=job.force if force is None else force,
        moved_on=None if job.output else lambda: next_free(report.folder),
    )
    report.folder = found.place
    return found


@contextmanager
def stopped_with(kept: Callable[[], str]) -> Iterator[None]:
    """Ctrl-C says what is kept, and how to go on; `kept` gives nothing when that is nothing."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise Stopped(kept()) from stop


def _move_on(report: Report, finished: Path) -> Path:
    report.folder = next_free(report.folder)
    write_json_atomic(finished / "report.json", report_dict(report))
    return report.folder
