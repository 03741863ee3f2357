"""The subcommands as Python functions: the positional argument first, the flags as keywords."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from PIL import Image

    from smoothtool.types import Report


class Result(NamedTuple):
    """The pictures that were made, in order, and the report, whose `folder` holds them and everything else."""

    frames: list[Image.Image]
    report: Report


def call(command: str, *inputs: Any, **settings: Any) -> Result:
    """Make the job, run it without progress, and open what it made."""
    from smoothtool.commands import run_job
    from smoothtool.jobs import JOBS, ReportJob, make_job, positional_of
    from smoothtool.recipe.defaults import with_defaults
    from smoothtool.types import silent
    from smoothtool.weights.sample_pictures import natural

    if inputs:
        settings[positional_of(JOBS[command])], *unknown = inputs
        if unknown:
            raise TypeError(f"{command}() takes one positional argument, the others are keywords")
    with tempfile.TemporaryDirectory(prefix="smoothtool-inputs-") as folder:
        lent: dict[str, str] = {}
        job = make_job(command, {key: _as_path(value, Path(folder), lent) for key, value in settings.items()})
        assert isinstance(job, ReportJob)
        job = with_defaults(job.lending(lent))
        report = run_job(job, silent)
        _keep_inputs(lent, report.folder / "inputs")
    made = sorted(report.folder.glob(job.made), key=lambda path: natural(path.name))
    return Result([_opened(path) for path in made], report)


def _as_path(value: Any, folder: Path, lent: dict[str, str]) -> Any:
    """PIL images become PNG files in `folder`, alone or in a list, and are entered in `lent`; anything else stays."""
    if isinstance(value, (list, tuple)):
        return [_as_path(part, folder, lent) for part in value]
    if not hasattr(value, "save") or isinstance(value, (str, Path)):
        return str(value) if isinstance(value, Path) else value
    from smoothtool.files.storage.writing import write_picture

    path = folder / f"{len(lent)}.png"
    write_picture(path, value)
    lent[str(path)] = path.name
    return str(path)


def _keep_inputs(lent: dict[str, str], place: Path) -> None:
    from smoothtool.files.storage.output import new_folder
    from smoothtool.files.storage.writing import write_bytes_atomic

    if lent:
        with new_folder(place, force=False) as folder:
            for path, name in lent.items():
                write_bytes_atomic(folder / name, Path(path).read_bytes())


def _opened(path: Path) -> Image.Image:
    from PIL import Image

    with Image.open(path) as image:
        image.load()
        return image
