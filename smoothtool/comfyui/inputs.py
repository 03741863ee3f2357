"""Job models -> ComfyUI's INPUT_TYPES: kind, default, bounds and help come from the job's field, as everywhere."""

from __future__ import annotations

from typing import Any

from pydantic.fields import FieldInfo

from smoothtool.jobs import JOBS, fields_of
from smoothtool.jobs.options import OUTPUT, SEED_END, choices_of, flag_of, key_of, kind_of

GIVEN_AS_SOCKETS = ("image", "images", "mask")
"""Options that come from other nodes."""
NO_PLACE_HERE = (
    "points",
    "bench",
    "pick",
    "fit_mask",
    "compare",
    "format",
    "quality",
    "gif",
    "apng",
    "mp4",
    "fps",
    "batch_size",
)
"""Options that name files, open pages, or are about files that no node sees."""
LARGEST_WHOLE = 2**31 - 1


def optional_inputs(command: str) -> dict[str, tuple[Any, dict[str, Any]]]:
    """Every other option of the command, by its key."""
    return {
        key_of(name, field): _input(field)
        for name, field in fields_of(JOBS[command])
        if flag_of(field).panel != OUTPUT and name not in (*GIVEN_AS_SOCKETS, *NO_PLACE_HERE)
    }


def settings_of(command: str, values: dict[str, Any]) -> dict[str, Any]:
    """What a node was given, as settings of the job: empty texts and -1 mean not given, lists are a line each."""
    fields = {key_of(name, field): field for name, field in fields_of(JOBS[command])}
    found = {}
    for key, value in values.items():
        field = fields[key]
        if kind_of(field) is list:
            value = [line.strip() for line in str(value).splitlines() if line.strip()]
        if value not in ("", [], None) and not (value == -1 and field.default is None):
            found[key] = value
    return found


def _input(field: FieldInfo) -> tuple[Any, dict[str, Any]]:
    options: dict[str, Any] = {"tooltip": field.description}
    if choices := choices_of(field):
        return choices, options | {"default": field.default}
    kind, default = kind_of(field), None if field.is_required() else field.default
    if kind is bool:
        return "BOOLEAN", options | {"default": bool(default)}
    if kind in (int, float):
        low, high = _bounds(field)
        low = min(low, -1) if default is None else low
        step = {} if kind is int else {"step": 0.01}
        name = "INT" if kind is int else "FLOAT"
        return name, options | {"default": -1 if default is None else default, "min": low, "max": high, **step}
    return "STRING", options | {"default": "" if not isinstance(default, str) else default, "multiline": kind is list}


def _bounds(field: FieldInfo) -> tuple[float, float]:
    """From the field, or as far as ComfyUI's own numbers go."""
    facts = {
        name: getattr(extra, name)
        for extra in field.metadata
        for name in ("ge", "gt", "le", "lt")
        if hasattr(extra, name)
    }
    low, high = facts.get("ge", facts.get("gt", -LARGEST_WHOLE)), facts.get("le", facts.get("lt", LARGEST_WHOLE))
    return low, LARGEST_WHOLE if high == SEED_END else high
