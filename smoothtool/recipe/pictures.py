"""The recipe inside a picture, which may come from anyone: it says what to make, never where to put it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from smoothtool.errors import InputError
from smoothtool.jobs import JOBS, fields_of
from smoothtool.jobs.options import flag_of, key_of
from smoothtool.readers.regular import at_home
from smoothtool.recipe.documents import with_paths
from smoothtool.recipe.plan import Plan
from smoothtool.recipe.reading import plan_recipe
from smoothtool.yaml12 import Document


def plan_picture(picture: Path, overrides: Sequence[str] = ()) -> Plan:
    """What the settings inside a picture ask for; results go below the working folder, unless an override says where.

    Paths in it are relative to the picture, to the folder above it (of frames), or to the working folder.
    Raises: InputError when it carries no settings, UsageError for settings that cannot be meant.
    """
    from smoothtool.files.pictures.images import read_settings

    settings = read_settings(picture)
    if settings is None:
        raise InputError(f"{picture}: carries no settings of smoothtool", "the job.yaml beside the result")
    left_out: set[str] = set()
    document = _without_delivery(settings, left_out)
    jobs = document.get("jobs")
    if isinstance(jobs, list):
        document["jobs"] = [_found(job, picture) for job in jobs]
    plan = plan_recipe(Document(document, str(picture)), overrides)
    if left_out:
        what = f"{picture.name}: {', '.join(sorted(left_out))} inside it is not followed: say it on the command line"
        return replace(plan, notes=(*plan.notes, what))
    return plan


def _without_delivery(value: Any, left_out: set[str]) -> Any:
    """Settings at any depth (jobs, defaults, matrix) without options of delivery."""
    if isinstance(value, list):
        return [_without_delivery(part, left_out) for part in value]
    if not isinstance(value, Mapping):
        return value
    barred = {key for key in value if key.replace("-", "_") in _delivery()}
    left_out |= barred
    return {key: _without_delivery(part, left_out) for key, part in value.items() if key not in barred}


def _delivery() -> set[str]:
    """Options about where and how results are handed over: for whoever runs a picture to say."""
    every = (field for model in JOBS.values() for field in fields_of(model))
    return {key_of(name, field) for name, field in every if flag_of(field).delivery}


def _found(job: Any, picture: Path) -> Any:
    """A job with its paths leading to files that are there, as far as they can be found."""
    if not isinstance(job, Mapping):
        return job
    given = {key.replace("-", "_"): value for key, value in job.items()}
    return with_paths(str(job.get("command")), given, lambda text, _: _nearest(text, picture))


def _nearest(text: str, picture: Path) -> str:
    return next((place for place in _candidates(text, picture) if os.path.exists(place)), text)


def _candidates(text: str, picture: Path) -> Iterator[str]:
    here = Path(os.path.abspath(picture)).parent
    for folder in (here, here.parent, Path.cwd()):
        yield os.path.normpath(folder / at_home(text))
