"""From settings to a job, or to every problem with them at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import ValidationError

from smoothtool.errors import UsageError, closest
from smoothtool.jobs.base import Job, fields_of
from smoothtool.jobs.bench import BenchJob
from smoothtool.jobs.drag import DragJob
from smoothtool.jobs.edit import EditJob
from smoothtool.jobs.interpolate import InterpolateJob
from smoothtool.jobs.invert import InvertJob
from smoothtool.jobs.measure import EvalJob, IstdJob, TablesJob
from smoothtool.jobs.options import demand_of, flag_of, key_of, label_of
from smoothtool.jobs.train import TrainJob

_JOBS: tuple[type[Job], ...] = (
    InterpolateJob,
    InvertJob,
    EditJob,
    DragJob,
    IstdJob,
    EvalJob,
    TrainJob,
    TablesJob,
    BenchJob,
)
JOBS = {job.command: job for job in _JOBS}
"""Every subcommand. A new one needs its line here, and `commands/NAME/run.py`."""


@dataclass(frozen=True)
class Problem:
    """One wrong setting: its `key` as recipes spell it, and one clause that says what is wrong."""

    key: str
    what: str


def make_job(command: str, settings: Mapping[str, Any]) -> Job:
    """The job that these settings ask for.

    Raises: UsageError that names every wrong setting, one a line, as flags.
    """
    job, problems = try_job(JOBS[command], settings)
    if job is None:
        labels = {key_of(name, field): label_of(name, field) for name, field in fields_of(JOBS[command])}
        lines = [f"{labels.get(problem.key, problem.key)} {problem.what}" for problem in problems]
        raise UsageError("\n".join(lines), f"smoothtool {command} --help")
    return job


def try_job(model: type[Job], settings: Mapping[str, Any]) -> tuple[Job | None, list[Problem]]:
    """The job, or every problem at once."""
    try:
        return model.model_validate(dict(settings)), []
    except ValidationError as error:
        details = [dict(detail) for detail in error.errors(include_url=False)]
        if all(detail["loc"] for detail in details):
            return None, list(dict.fromkeys(_problem(model, detail) for detail in details))
    # A complaint that quotes bytes of a command line that are no text gets lost on its way: quote something readable.
    readable = {key: _readable(value) for key, value in settings.items()}
    broken = [Problem(key, "is not UTF-8: it has to be text") for key in settings if readable[key] != settings[key]]
    _, problems = try_job(model, readable) if broken else (None, [])
    return None, problems or broken


def _readable(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_readable(part) for part in value]
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


@cache
def keys_of(model: type[Job]) -> tuple[str, ...]:
    """Every key a recipe may use for this command."""
    return tuple(key_of(name, field) for name, field in fields_of(model))


def positional_of(model: type[Job]) -> str:
    """The key of the argument that is given without a name."""
    return next(key_of(name, field) for name, field in fields_of(model) if flag_of(field).positional)


def unknown_option(key: str, known: Iterable[str]) -> str:
    """`is not an option (did you mean prompt)`."""
    near = closest(key, known)
    return "is not an option" + (f" (did you mean {near})" if near else "")


def _problem(model: type[Job], detail: dict[str, Any]) -> Problem:
    """Pydantic's finding in the user's terms."""
    key = str(detail["loc"][0])
    if detail["type"] == "extra_forbidden":
        return Problem(key, unknown_option(key, keys_of(model)))
    field = next(field for name, field in fields_of(model) if key in (name, field.alias))
    if detail["type"] == "missing":
        return Problem(key, "is missing")
    if detail["type"] == "value_error":  # in our own words
        return Problem(key, str(detail["ctx"]["error"]))
    return Problem(key, f"is {_shown(detail['input'])}, not {demand_of(field)}")


def _shown(value: Any) -> str:
    text = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    text = text if len(text) <= 60 else text[:59] + "…"
    return text or "empty"
