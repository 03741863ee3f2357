"""The JSON Schema of recipes, by which editors complete and check them."""

from __future__ import annotations

from typing import Any

from smoothtool.jobs import JOBS, Job
from smoothtool.recipe.plan import picture_key, recipe_keys


def recipe_schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors."""
    schemas = [_job_schema(command, model) for command, model in JOBS.items()]
    options: dict[str, Any] = {key: {} for model in JOBS.values() for key in recipe_keys(model)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "smoothtool recipe",
        "type": "object",
        "properties": {
            "output": {"type": "string"},
            "defaults": {"type": "object", "properties": options, "additionalProperties": False},
            "jobs": {"type": "array", "minItems": 1, "items": {"oneOf": schemas}},
        },
        "required": ["jobs"],
        "additionalProperties": False,
    }


def _job_schema(command: str, model: type[Job]) -> dict[str, Any]:
    options = {key: _as_written(option) for key, option in model.model_json_schema(by_alias=True)["properties"].items()}
    if picture_key(model) == "image":
        options["image"] = {"anyOf": [options["image"], {"type": "array", "minItems": 1, "items": {"type": "string"}}]}
    axes = {key: {"type": "array", "minItems": 1, "items": option} for key, option in options.items()}
    return {
        "title": command,
        "type": "object",
        "properties": {
            "command": {"const": command},
            **({"captions": {"type": "string"}} if picture_key(model) else {}),
            "matrix": {"type": "object", "properties": axes, "additionalProperties": False},
            **options,
        },
        "required": ["command"],
        "additionalProperties": False,
    }


def _as_written(option: dict[str, Any]) -> dict[str, Any]:
    """One value will do for a list of one, and a number for text: `size: 512`."""
    if option.get("type") == "array":
        return {"anyOf": [option | {"items": _as_written(option["items"])}, _as_written(option["items"])]}
    if "anyOf" in option:
        return option | {"anyOf": [_as_written(part) for part in option["anyOf"]]}
    return (
        option | {"type": ["string", "number"]} if option.get("type") == "string" and "enum" not in option else option
    )
