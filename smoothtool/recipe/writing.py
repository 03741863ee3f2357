"""A plan as a recipe that is read back to the same plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from smoothtool.jobs import JOBS
from smoothtool.recipe.plan import Plan, recipe_keys
from smoothtool.yaml12 import dump_yaml

_MISSING = object()


def dump_plan(plan: Plan, *, every_letter: bool = True) -> str:
    """YAML that `load_recipe` reads back to the same plan.

    every_letter  False for where UTF-8 cannot be written: other letters than ASCII's are then escaped as YAML has it
    """
    return dump_yaml(plan_document(plan), every_letter=every_letter)


def plan_document(plan: Plan) -> dict[str, Any]:
    """A recipe of the plan, with defaults and combinations written out, as plain data."""
    rows = [
        {**row, **item.job.handover(), **({"output": item.name} if plan.folder else {})}
        for item in plan.items
        for row in item.job.recipe()["jobs"]
    ]
    shared = _shared(rows) if len(rows) > 1 else {}
    return {
        **({"output": str(plan.folder)} if plan.folder else {}),
        **({"defaults": shared} if shared else {}),
        "jobs": [{key: value for key, value in row.items() if key not in shared} for row in rows],
    }


def _shared(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The options that every job has which could have them, with one value for all: said once for thousands."""
    first = {key: value for row in reversed(rows) for key, value in row.items() if key not in ("command", "output")}
    knows = {command: set(recipe_keys(JOBS[command])) for command in {row["command"] for row in rows}}
    return {
        key: value
        for key, value in first.items()
        if all(row.get(key, _MISSING) == value for row in rows if key in knows[row["command"]])
    }
