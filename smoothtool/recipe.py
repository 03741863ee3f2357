"""YAML <-> jobs. A recipe is `defaults:` and a list of `jobs:`, each a `command:` with that command's options.

    defaults: {steps: 30}
    jobs:
      - command: interpolate
        images: [a.png, b.png]
        matrix: {frames: [5, 9], loop: [true, false]}   # every combination: four jobs

Every mistake is reported at once as `file:line:col jobs[0].key: what`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from smoothtool.errors import UsageError, closest
from smoothtool.jobs import JOBS, Job, keys_of, try_job, unknown_option
from smoothtool.yaml12 import Document, Dumper, Trail, load_yaml, read_yaml

MAX_JOBS = 10_000


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> list[Job]:
    """The jobs of a recipe file; each `key=value` override replaces that key in every job that has it.

    Raises: UsageError with every mistake, one a line.
    """
    return expand(load_yaml(path), overrides)


def dump_recipe(jobs: Sequence[Job]) -> str:
    """YAML that `load_recipe` reads back to the same jobs."""
    document = {"jobs": [row for job in jobs for row in job.recipe()["jobs"]]}
    return yaml.dump(document, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)


def recipe_schema() -> dict[str, Any]:
    """JSON Schema of a recipe, for editors."""
    schemas = [_job_schema(command, model) for command, model in JOBS.items()]
    options: dict[str, Any] = {key: {} for model in JOBS.values() for key in keys_of(model)}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "smoothtool recipe",
        "type": "object",
        "properties": {
            "defaults": {"type": "object", "properties": options, "additionalProperties": False},
            "jobs": {"type": "array", "minItems": 1, "items": {"oneOf": schemas}},
        },
        "required": ["jobs"],
        "additionalProperties": False,
    }


def expand(document: Document, overrides: Sequence[str] = ()) -> list[Job]:
    """Apply defaults, matrix and overrides, and check every job.

    Raises: UsageError with every mistake, one a line.
    """
    problems: list[str] = []
    given = _Given(document, problems)
    changes = given.overrides(overrides)
    jobs: list[Job] = []
    for trail, model, settings in given.jobs():
        known = keys_of(model)
        settings |= {key: change for key, change in changes.items() if key in known}
        job, found = try_job(model, {key: value for key, (value, _) in settings.items()})
        places = {key: place for key, (_, place) in settings.items()}
        problems += [f"{places.get(p.key, f'{document.at(trail)}.{p.key}')}: {p.what}" for p in found]
        jobs += [job] if job else []
    if problems:
        raise UsageError("\n".join(dict.fromkeys(problems)), "smoothtool recipe schema")
    return jobs


Settings = dict[str, tuple[Any, str]]
"""Per key its value, and where it was written."""


@dataclass
class _Given:
    """What a recipe says, part by part; what cannot be meant is added to `problems` and left out."""

    document: Document
    problems: list[str]

    def wrong(self, trail: Trail, what: str) -> None:
        self.problems.append(f"{self.document.at(trail)}: {what}")

    def mapping(self, value: Any, trail: Trail) -> dict[str, Any]:
        if isinstance(value, Mapping) and value:
            return dict(value)
        self.wrong(trail, "is not a mapping of keys to values")
        return {}

    def overrides(self, texts: Sequence[str]) -> Settings:
        known = {key for _, model, _ in _Given(self.document, []).jobs() for key in keys_of(model)}
        changes: Settings = {}
        for text in texts:
            key, equals, value = text.partition("=")
            name = key.replace("-", "_")
            if not equals:
                self.problems.append(f"{text}: is not key=value")
            elif known and name not in known:
                self.problems.append(f"{text}: {unknown_option(name, sorted(known))}")
            else:
                changes[name] = read_yaml(value, text).value, text
        return changes

    def jobs(self) -> Iterator[tuple[Trail, type[Job], Settings]]:
        """Each job of each combination, with its defaults."""
        top = self.mapping(self.document.value, ())
        for key in top.keys() - {"defaults", "jobs"}:
            self.wrong((key,), unknown_option(key, ["defaults", "jobs"]))
        defaults = self.defaults(top["defaults"]) if "defaults" in top else {}
        rows = top.get("jobs")
        if not isinstance(rows, list) or not rows:
            self.wrong(("jobs",), "is missing, or not a list with at least one job")
            return
        for index, row in enumerate(rows):
            if settings := self.mapping(row, ("jobs", index)):
                yield from self.combinations(settings, ("jobs", index), defaults)

    def defaults(self, value: Any) -> Settings:
        every = sorted({key for model in JOBS.values() for key in keys_of(model)})
        settings = self.located(self.mapping(value, ("defaults",)), ("defaults",))
        for key, (_, place) in settings.items():
            if key not in every:
                self.problems.append(f"{place}: {unknown_option(key, every)}")
        return settings

    def combinations(
        self, row: dict[str, Any], trail: Trail, defaults: Settings
    ) -> Iterator[tuple[Trail, type[Job], Settings]]:
        command, matrix = row.pop("command", None), row.pop("matrix", None)
        if not isinstance(command, str) or command not in JOBS:
            near = closest(str(command), JOBS)
            hint = f"did you mean {near}" if near else "one of " + ", ".join(JOBS)
            what = "is missing" if command is None else f"is {command}, not a command"
            self.wrong((*trail, "command"), f"{what} ({hint})")
            return
        own = {key: found for key, found in defaults.items() if key in keys_of(JOBS[command])}
        own |= self.located(row, trail)
        for chosen in [{}] if matrix is None else self.products(matrix, (*trail, "matrix")):
            yield trail, JOBS[command], own | chosen

    def products(self, matrix: Any, trail: Trail) -> Iterator[Settings]:
        axes: list[list[tuple[str, Any, str]]] = []
        for key, values in self.mapping(matrix, trail).items():
            if not isinstance(values, list) or not values:
                self.wrong((*trail, key), "is not a list of values")
                return
            name = key.replace("-", "_")
            axes.append([(name, value, self.document.at((*trail, key, at))) for at, value in enumerate(values)])
        if math.prod(map(len, axes)) > MAX_JOBS:
            self.wrong(trail, f"makes over {MAX_JOBS} jobs")
            return
        for combination in itertools.product(*axes):
            yield {name: (value, place) for name, value, place in combination}

    def located(self, mapping: dict[str, Any], trail: Trail) -> Settings:
        """Keys as options spell them (`inner-steps` is `inner_steps`), each with its place."""
        return {key.replace("-", "_"): (value, self.document.at((*trail, key))) for key, value in mapping.items()}


def _job_schema(command: str, model: type[Job]) -> dict[str, Any]:
    options = model.model_json_schema(by_alias=True)["properties"]
    for key, option in options.items():
        if option.get("type") == "array":
            options[key] = {"anyOf": [option, option["items"]]}
    axes = {key: {"type": "array", "minItems": 1, "items": option} for key, option in options.items()}
    return {
        "title": command,
        "type": "object",
        "properties": {
            "command": {"const": command},
            "matrix": {"type": "object", "properties": axes, "additionalProperties": False},
            **options,
        },
        "required": ["command"],
        "additionalProperties": False,
    }
