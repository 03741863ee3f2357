"""A job as the shell line that makes the same result again."""

from __future__ import annotations

import shlex
from typing import Any

from smoothtool.jobs import Job, fields_of
from smoothtool.jobs.options import flag_of, label_of


def command_line(job: Job) -> str:
    """`smoothtool edit fox.png --src 'a fox' …`: what differs from the defaults, quoted for a POSIX shell."""
    given = job.model_dump(mode="json", exclude_defaults=True)
    words, options = ["smoothtool", job.command], []
    for name, field in fields_of(type(job)):
        if name not in given:
            continue
        values: list[Any] = given[name] if isinstance(given[name], list) else [given[name]]
        if flag_of(field).positional:
            words += [str(value) for value in values]
        elif values == [True]:
            options.append(label_of(name, field))
        else:
            options += [part for value in values for part in (label_of(name, field), str(value))]
    return shlex.join([*words, *options])
