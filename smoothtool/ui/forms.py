"""Job models -> forms: what the page shows for each command. Every option is written once, in its job model."""

from __future__ import annotations

from typing import Any

from pydantic.fields import FieldInfo

from smoothtool.jobs import JOBS, fields_of
from smoothtool.jobs.options import MODEL, OPTIONS, OUTPUT, choices_of, demand_of, flag_of, key_of, kind_of

COMMANDS = {"interpolate": "Morph", "edit": "Edit", "drag": "Drag"}
"""The tabs, by command."""
PICTURE_KEYS = ("image", "images", "mask")
"""Options that hold pictures: the page fills them in from its own, never with a path."""
KEPT_BACK = ("points", "bench", "pick", "fit_mask", "compare_lora")
"""Options that name files, or open another page: the browser never names a file of this machine."""


def form_of(command: str) -> dict[str, Any]:
    """Title, help and fields of a command. The model is chosen where the page is started, output is the session's."""
    model = JOBS[command]
    fields = [
        _field(name, field)
        for name, field in fields_of(model)
        if flag_of(field).panel not in (MODEL, OUTPUT) and name not in KEPT_BACK and not _names_a_file(name)
    ]
    return {"command": command, "title": COMMANDS[command], "about": model.__doc__, "fields": fields}


def accepted_keys(command: str) -> set[str]:
    """What a request may set, pictures apart."""
    return {field["key"] for field in form_of(command)["fields"] if field["key"] not in PICTURE_KEYS}


def _names_a_file(name: str) -> bool:
    return name == "clip"  # a name on this machine, or a folder


def _field(name: str, field: FieldInfo) -> dict[str, Any]:
    default = None if field.is_required() else field.default
    return {
        "key": key_of(name, field),
        "label": name.replace("_", " "),
        "help": field.description,
        "wants": demand_of(field),
        "kind": "choice" if choices_of(field) else kind_of(field).__name__.lower(),
        "choices": choices_of(field),
        "default": default,
        "panel": flag_of(field).panel,
        "main": flag_of(field).panel == OPTIONS,
    }
