"""What holds where nothing was asked for: the user's settings, then the model's own values, then smoothtool's.

Where a method has a default of its own (pix2pix-zero's guidance of 5), it stands before the model's value.

What was left to `auto` is chosen here too, where all else is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from smoothtool.errors import ModelError, UsageError
from smoothtool.jobs import EditJob, Job, ModelJob, chosen, try_job
from smoothtool.weights import settings
from smoothtool.weights.models import model_defaults, preferred_name

OF_THE_USER = tuple(key for key in settings.SETTINGS if key not in ("model", "output"))
"""`model` of the settings file is what `auto` means, `output` where folders of results are."""
OF_A_MODEL = ("steps", "guidance")
"""Keys of a model's own `smoothtool.json`."""


def with_defaults(job: Job) -> Job:
    """The job with every option that nobody gave as the user's settings or the model have it; `job.origins` says so.

    Raises: UsageError when the settings file or the model's file holds a value that the option does not take, or when
    no editing method does with all that was given.
    """
    filled = _filled(job) if isinstance(job, ModelJob) else job
    return chosen(filled) if isinstance(filled, EditJob) else filled


def _filled(job: ModelJob) -> Job:
    """The job with the values of settings and model in the place of smoothtool's defaults."""
    found: dict[str, tuple[Any, str]] = {}
    for values, origin in _sources(job):
        for key, value in values.items():
            if key in type(job).model_fields and key not in job.model_fields_set:
                found.setdefault(key, (value, origin))
    if not found:
        return job
    given = {name: getattr(job, name) for name in job.model_fields_set}
    filled, problems = try_job(type(job), given | {key: value for key, (value, _) in found.items()})
    if filled is None:
        origins = {key: origin for key, (_, origin) in found.items()}
        lines = [f"{origins.get(p.key, 'the settings')}: {p.key} {p.what}" for p in problems]
        raise UsageError("\n".join(lines), f"correct it in {settings.settings_file()}, or give the option itself")
    origins = {key: f"the default of {origin}" for key, (_, origin) in found.items()}
    return job.completed({key: getattr(filled, key) for key in found}, origins)


def _sources(job: ModelJob) -> list[tuple[Mapping[str, Any], str]]:
    """Values and where they stand, the first ones first."""
    user, brought = settings.user_settings(), job.own_defaults.get(str(getattr(job, "method", "")), {})
    name = preferred_name() if job.model == "auto" else job.model
    try:
        own = model_defaults(name)
    except ModelError:  # the run itself says what is wrong with the model
        own = {}
    return [
        ({key: user[key] for key in OF_THE_USER if key in user}, str(settings.settings_file())),
        ({key: own[key] for key in OF_A_MODEL if key in own and key not in brought}, f"the model {name}"),
    ]
