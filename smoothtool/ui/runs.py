"""What the page has in hand: the pictures it was given, and its runs, one after the other as they were asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from queue import Queue
from typing import Any, TypeVar

from smoothtool.commands import run_job
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.errors import InputError, UsageError, explain, storage_error
from smoothtool.files.storage.output import create_folder
from smoothtool.jobs import DragJob, ReportJob, make_job, parse_point
from smoothtool.recipe.command_line import command_line
from smoothtool.recipe.defaults import with_defaults
from smoothtool.types import Report, Track, silent
from smoothtool.ui.forms import COMMANDS, accepted_keys
from smoothtool.weights.sample_pictures import resolve_picture, sample, sample_name, sample_names

T = TypeVar("T")
SECONDS_TO_END = 10
"""Between two steps of a run; one that takes longer is left behind."""
FORMATS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp", "GIF": ".gif"}


class StoppedError(Exception):
    """The person pressed Stop."""


@dataclass(frozen=True)
class Start:
    """What the page opens with: a tab, pictures by their names here, a mask among them or '', and what was chosen."""

    command: str
    pictures: list[str]
    mask: str
    settings: Mapping[str, Any]


@dataclass
class Run:
    """One run and how it goes. status: waiting, running, done, failed or stopped."""

    number: int
    job: ReportJob
    pictures: list[str]
    status: str = "waiting"
    stage: str = ""
    done: int = 0
    total: int = 0
    notes: list[str] = field(default_factory=list)
    error: str = ""
    files: list[str] = field(default_factory=list)
    report: Report | None = None
    stop: threading.Event = field(default_factory=threading.Event)

    def shown(self) -> dict[str, Any]:
        """For the page: no path of this machine but in the command, which is there to be copied."""
        return {
            "number": self.number,
            "command": self.job.command,
            "title": COMMANDS[self.job.command],
            "status": self.status,
            "stage": self.stage,
            "done": self.done,
            "total": self.total,
            "notes": self.notes,
            "error": self.error,
            "files": self.files,
            "pictures": self.pictures,
            "line": command_line(self.job),
        }


class RunTrack:
    """The `Track` of a run: notes progress, and ends the run between two steps once it is asked to stop.

    beside  hears of all that as well
    """

    def __init__(self, run: Run, beside: Track = silent) -> None:
        self.run, self.beside = run, beside

    def __call__(self, items: Iterable[T], description: str, total: int) -> Iterable[T]:
        self.run.stage, self.run.done, self.run.total = description, 0, total
        for item in self.beside(items, description, total):
            if self.run.stop.is_set():
                raise StoppedError
            yield item
            self.run.done += 1

    def note(self, text: str) -> None:
        if text not in self.run.notes:
            self.run.notes.append(text)
        self.beside.note(text)

    def tell(self, text: str) -> None:
        self.note(text)

    def status(self, text: str) -> None:
        self.beside.status(text)


class Session:
    """Pictures and runs of one page, in one folder, as a context manager; `common` are the model's options.

    names  of the folders of results, which other sessions may fill at the same time
    track  hears of the progress of every run
    start  what the page opens with; one that opens with a picture has a button that ends it
    """

    def __init__(
        self, folder: Path, common: Mapping[str, Any], *, names: str = "{number}-{command}", track: Track = silent
    ) -> None:
        self.folder, self.common, self.names, self.track = folder, dict(common), names, track
        self.pictures = {name: resolve_picture(name) for name in map(sample, sample_names())}
        self.start: Start | None = None
        self.runs: list[Run] = []
        self.finished = threading.Event()
        self.saved: Path | None = None
        self._inputs: Path | None = None
        self._numbers = count(1)
        self._queue: Queue[Run | None] = Queue()
        self._lock = threading.Lock()
        self._worker = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Session:
        self._worker.start()
        return self

    def __exit__(self, *problem: object) -> None:
        for run in self.runs:
            run.stop.set()
        self._queue.put(None)
        self._worker.join(SECONDS_TO_END)

    def add_picture(self, content: bytes) -> str:
        """Keep a picture under a name of ours. Raises: InputError when it is none."""
        from PIL import Image

        from smoothtool.files.pictures.images import load_image
        from smoothtool.files.storage.writing import write_bytes_atomic

        with self._lock:
            folder = self._inputs = self._inputs or self._claim("pictures", "pictures-{number}")
            name = f"picture-{next(self._numbers)}"
        path = folder / f"{name}.png"
        write_bytes_atomic(path, content)
        try:
            load_image(path)
            with Image.open(path) as opened:
                suffix = FORMATS.get(str(opened.format), ".png")
        except InputError as error:
            path.unlink()
            raise InputError(error.what.replace(str(path), "this file"), error.hint) from error
        path = path.rename(path.with_suffix(suffix))
        self.pictures[name] = path
        return name

    def run(self, command: str, settings: Mapping[str, Any], pictures: Sequence[str]) -> Run:
        """Queue a run. Raises: UsageError when it cannot be meant."""
        job = self._job(command, settings, pictures)
        with self._lock:
            job = job.model_copy(update={"output": self._claim(*[self.names.replace("{command}", command)] * 2)})
            run = Run(len(self.runs) + 1, job, list(pictures))
            self.runs.append(run)
        self._queue.put(run)
        return run

    def save_points(self, settings: Mapping[str, Any], pictures: Sequence[str]) -> Path:
        """Keep the points of a drag, and its mask, for another time: the folder of points.json and mask.png.

        Raises: UsageError for what cannot be meant; StorageError.
        """
        from smoothtool.files.lists.points import check_points, points_from_numbers, write_points
        from smoothtool.files.pictures.images import load_image
        from smoothtool.files.storage.writing import write_bytes_atomic

        job = self._job("drag", settings, pictures)
        assert isinstance(job, DragJob)
        points = points_from_numbers([parse_point(text) for text in job.point])
        if job.image is not None:
            check_points(points, load_image(resolve_picture(job.image)).size)
        self.saved = self.saved or self._claim("points", "points-{number}")
        write_points(self.saved / "points.json", points, job.src)
        if job.mask is not None:
            write_bytes_atomic(self.saved / "mask.png", job.mask.read_bytes())
        return self.saved

    def _job(self, command: str, settings: Mapping[str, Any], pictures: Sequence[str]) -> ReportJob:
        unknown = next((key for key in settings if key not in accepted_keys(command)), None)
        if unknown is not None:
            raise UsageError(f"{unknown}: no option of this page")
        missing = next((name for name in pictures if name not in self.pictures), None)
        if missing is not None:
            raise UsageError(f"{missing}: no picture of this page", "drop it on the page again")
        given = {key: value for key, value in settings.items() if value not in (None, "", [])}
        job = with_defaults(make_job(command, {**self.common, **given, **self._pictures_of(command, pictures)}))
        assert isinstance(job, ReportJob)
        return job

    def _claim(self, first: str, later: str) -> Path:
        """An empty folder of our own, of the first free name: others may work in the same place.

        Raises: StorageError.
        """
        for number in count(1):
            place = self.folder / (first if number == 1 else later).format(number=number)
            try:
                create_folder(self.folder)
                place.mkdir()
            except FileExistsError:
                continue
            except OSError as error:
                raise storage_error(place, error) from error
            return place
        raise AssertionError("numbers do not end")

    def _pictures_of(self, command: str, names: Sequence[str]) -> dict[str, Any]:
        paths = [str(self.pictures[name]) if sample_name(name) is None else name for name in names]
        if command == "interpolate":
            return {"images": paths}
        chosen: dict[str, Any] = {"image": paths[0]} if paths else {}
        if command == "drag" and len(paths) > 1:
            chosen["mask"] = paths[1]
        return chosen

    def stop(self, number: int) -> None:
        """Ask a run to end; one that waits never begins."""
        if 1 <= number <= len(self.runs):
            self.runs[number - 1].stop.set()

    def _work(self) -> None:
        pool = ModelPool()
        while (run := self._queue.get()) is not None:
            self._run(run, pool)

    def _run(self, run: Run, pool: ModelPool) -> None:
        run.status, run.stage = "running", "loading"
        try:
            if run.stop.is_set():
                raise StoppedError
            run.report = run_job(run.job, RunTrack(run, self.track), pool)
        except StoppedError:
            run.status = "stopped"
        except Exception as error:  # whatever happens in a run, the page stays
            run.status, run.error = "failed", str(explain(error))
        else:
            run.files = list(_names(run.report.files))
            run.status = "done"
        if run.report is None:
            assert run.job.output is not None, "claimed when it was asked for"
            with suppress(OSError):
                run.job.output.rmdir()


def _names(files: Any) -> Iterable[str]:
    """The files of a report, flat, by their names below the result's folder."""
    parts = files.values() if isinstance(files, Mapping) else files if isinstance(files, (list, tuple)) else None
    if parts is None:
        yield Path(files).as_posix()
    else:
        for part in parts:
            yield from _names(part)
