"""What the page has in hand: the pictures it was given, and its runs, one after the other as they were asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Any, TypeVar

from smoothtool.commands import run_job
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.errors import InputError, UsageError, explain
from smoothtool.jobs import Job, make_job
from smoothtool.recipe.command_line import command_line
from smoothtool.recipe.defaults import with_defaults
from smoothtool.ui.forms import COMMANDS, accepted_keys
from smoothtool.weights.sample_pictures import resolve_picture, sample, sample_name, sample_names

T = TypeVar("T")
SECONDS_TO_END = 10
"""Between two steps of a run; one that takes longer is left behind."""
FORMATS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "TIFF": ".tif", "BMP": ".bmp", "GIF": ".gif"}


class StoppedError(Exception):
    """The person pressed Stop."""


@dataclass
class Run:
    """One run and how it goes. status: waiting, running, done, failed or stopped."""

    number: int
    job: Job
    pictures: list[str]
    status: str = "waiting"
    stage: str = ""
    done: int = 0
    total: int = 0
    notes: list[str] = field(default_factory=list)
    error: str = ""
    files: list[str] = field(default_factory=list)
    folder: Path | None = None
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
    """The `Track` of a run: notes progress, and ends the run between two steps once it is asked to stop."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def __call__(self, items: Iterable[T], description: str, total: int) -> Iterable[T]:
        self.run.stage, self.run.done, self.run.total = description, 0, total
        for item in items:
            if self.run.stop.is_set():
                raise StoppedError
            yield item
            self.run.done += 1

    def note(self, text: str) -> None:
        if text not in self.run.notes:
            self.run.notes.append(text)

    def tell(self, text: str) -> None:
        self.note(text)

    def status(self, text: str) -> None:
        return None


class Session:
    """Pictures and runs of one page, in one folder, as a context manager; `common` are the model's options."""

    def __init__(self, folder: Path, common: Mapping[str, Any]) -> None:
        self.folder, self.common = folder, dict(common)
        self.pictures = {name: resolve_picture(name) for name in map(sample, sample_names())}
        self.runs: list[Run] = []
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

        folder = self.folder / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        with self._lock:
            name = f"picture-{len(list(folder.iterdir())) + 1}"
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

    def start(self, command: str, settings: Mapping[str, Any], pictures: Sequence[str]) -> Run:
        """Queue a run. Raises: UsageError when it cannot be meant."""
        unknown = next((key for key in settings if key not in accepted_keys(command)), None)
        if unknown is not None:
            raise UsageError(f"{unknown}: no option of this page")
        missing = next((name for name in pictures if name not in self.pictures), None)
        if missing is not None:
            raise UsageError(f"{missing}: no picture of this page", "drop it on the page again")
        given = {key: value for key, value in settings.items() if value not in (None, "", [])}
        job = with_defaults(make_job(command, {**self.common, **given, **self._pictures_of(command, pictures)}))
        with self._lock:
            run = Run(len(self.runs) + 1, job, list(pictures))
            run.job = job.model_copy(update={"output": self.folder / f"{run.number}-{command}"})
            self.runs.append(run)
        self._queue.put(run)
        return run

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
        if run.stop.is_set():
            run.status = "stopped"
            return
        run.status, run.stage = "running", "loading"
        try:
            report = run_job(run.job, RunTrack(run), pool)
        except StoppedError:
            run.status = "stopped"
        except Exception as error:  # whatever happens in a run, the page stays
            run.status, run.error = "failed", str(explain(error))
        else:
            run.folder, run.files = report.folder, list(_names(report.files))
            run.status = "done"


def _names(files: Any) -> Iterable[str]:
    """The files of a report, flat, by their names below the result's folder."""
    parts = files.values() if isinstance(files, Mapping) else files if isinstance(files, (list, tuple)) else None
    if parts is None:
        yield Path(files).as_posix()
    else:
        for part in parts:
            yield from _names(part)
