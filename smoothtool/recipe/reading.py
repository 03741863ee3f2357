"""YAML <-> jobs. A recipe is `defaults:` and a list of `jobs:`, each a `command:` with that command's options.

    output: restyled                       # folder for everything; `output=OUT` on the command line is stronger
    defaults: {steps: 30}
    jobs:
      - command: edit
        image: photos                      # a file, a folder, a glob, samples:*, or a list of them: one item each
        captions: sidecars                 # src from fox.txt beside fox.png; or a .csv or .jsonl with any options
        trg: a watercolour
        matrix: {ratio: [0.6, 0.8]}        # every combination
        output: "{dir}/{stem}-r{r}"        # where each result goes, below the folder for everything

Every mistake is reported at once as `file:line:col jobs[0].key: what`.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from smoothtool.errors import SmoothtoolError, UsageError, closest
from smoothtool.files.lists.inputs import Found, Picture, find_pictures
from smoothtool.jobs import JOBS, Job, try_job, unknown_option
from smoothtool.recipe.captions import Captions, Located
from smoothtool.recipe.plan import (
    Draft,
    Plan,
    default_template,
    draft_of,
    picture_key,
    plan_alone,
    plan_batch,
    recipe_keys,
)
from smoothtool.yaml12 import Document, Trail, load_yaml, read_yaml

MAX_JOBS = 10_000
TOP = ("defaults", "jobs", "output")
NOT_AXES = {"image", "images", "captions", "output"}
"""Keys whose values need not be in an item's name: the picture is in it anyway."""


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Plan:
    """What a recipe file asks for; each `key=value` override replaces that key in every job that has it.

    Raises: UsageError with every mistake, one a line.
    """
    return plan_recipe(load_yaml(path), overrides)


def plan_recipe(document: Document, overrides: Sequence[str] = ()) -> Plan:
    """Apply defaults, matrix and overrides, find pictures and captions, and check and name every job.

    Raises: UsageError with every mistake, one a line.
    """
    problems: list[str] = []
    reader = _RecipeReader(document, problems)
    changes = reader.overrides(overrides)
    chosen, _ = changes.pop("output", (None, ""))
    drafts = [draft for entry in reader.entries() for draft in reader.drafts(entry, changes)]
    if len(drafts) > MAX_JOBS:
        problems.append(f"{document.source}: makes over {MAX_JOBS} items")
    if problems:
        raise UsageError("\n".join(dict.fromkeys(problems)), "smoothtool recipe schema")
    folder = chosen or document.value.get("output")
    notes = tuple(dict.fromkeys(note for found in reader.found.values() for note in found.notes))
    if not reader.several:
        own = folder or drafts[0].name
        job = drafts[0].job.model_copy(update={"output": Path(str(own))}) if own else drafts[0].job
        return replace(plan_alone(job), notes=notes)
    words = [document.value, {key: value for key, (value, _) in changes.items()}]
    plan = plan_batch(drafts, Path(str(folder)) if folder else None, Path(document.source).stem, words)
    return replace(plan, notes=notes)


@dataclass(frozen=True)
class _JobEntry:
    """One job of one combination, before its pictures are looked for; `axes` are the keys that its matrix varies."""

    trail: Trail
    model: type[Job]
    settings: Located
    axes: tuple[str, ...]


@dataclass
class _RecipeReader:
    """What a recipe says, part by part; what cannot be meant is added to `problems` and left out.

    several  it turns out to be a batch: more than one job, a list of pictures, or a folder for everything
    """

    document: Document
    problems: list[str]
    several: bool = False
    found: dict[tuple[str, ...], Found] = field(default_factory=dict)
    sources: dict[str, Captions] = field(default_factory=dict)

    def wrong(self, trail: Trail, what: str) -> None:
        self.problems.append(f"{self.document.at(trail)}: {what}")

    def mapping(self, value: Any, trail: Trail) -> dict[str, Any]:
        if isinstance(value, Mapping) and value:
            return dict(value)
        self.wrong(trail, "is not a mapping of keys to values")
        return {}

    def overrides(self, texts: Sequence[str]) -> Located:
        known = {key for model in self.commands() for key in recipe_keys(model)}
        changes: Located = {}
        for text in texts:
            key, equals, value = text.partition("=")
            name = key.replace("-", "_")
            if not equals:
                self.problems.append(f"{text}: is not key=value")
            elif known and name not in known:
                self.problems.append(f"{text}: {unknown_option(name, sorted(known))}")
            elif name == "output":  # a folder is called as it is written: 010, true and [a] are names
                changes[name] = value, text
                if not value:
                    self.problems.append(f"{text}: is not a folder")
            else:
                changes[name] = read_yaml(value, text).value, text
        return changes

    def commands(self) -> set[type[Job]]:
        """Those that the jobs name, as far as they are jobs."""
        rows = self.document.value.get("jobs") if isinstance(self.document.value, Mapping) else None
        names = [row.get("command") for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []
        return {JOBS[name] for name in names if isinstance(name, str) and name in JOBS}

    def entries(self) -> Iterator[_JobEntry]:
        """Each job of each combination, with its defaults."""
        top = self.mapping(self.document.value, ())
        for key in top.keys() - set(TOP):
            self.wrong((key,), unknown_option(key, TOP))
        if "output" in top and not (isinstance(top["output"], str) and top["output"]):
            self.wrong(("output",), "is not a folder")
        defaults = self.defaults(top["defaults"]) if "defaults" in top else {}
        rows = top.get("jobs")
        if not isinstance(rows, list) or not rows:
            self.wrong(("jobs",), "is missing, or not a list with at least one job")
            return
        self.several = len(rows) > 1 or "output" in top
        for index, row in enumerate(rows):
            if settings := self.mapping(row, ("jobs", index)):
                yield from self.combinations(settings, ("jobs", index), defaults)

    def defaults(self, value: Any) -> Located:
        every = sorted({key for model in JOBS.values() for key in recipe_keys(model)})
        settings = self.located(self.mapping(value, ("defaults",)), ("defaults",))
        for key, (_, place) in settings.items():
            if key not in every:
                self.problems.append(f"{place}: {unknown_option(key, every)}")
        return settings

    def combinations(self, row: dict[str, Any], trail: Trail, defaults: Located) -> Iterator[_JobEntry]:
        command, matrix = row.pop("command", None), row.pop("matrix", None)
        if not isinstance(command, str) or command not in JOBS:
            near = closest(str(command), JOBS)
            hint = f"did you mean {near}" if near else "one of " + ", ".join(JOBS)
            what = "is missing" if command is None else f"is {command}, not a command"
            self.wrong((*trail, "command"), f"{what} ({hint})")
            return
        known = recipe_keys(JOBS[command])
        own = {key: found for key, found in defaults.items() if key in known}
        own |= self.located(row, trail)
        combinations = [{}] if matrix is None else list(self.products(matrix, (*trail, "matrix")))
        self.several |= len(combinations) > 1
        varied = {key for key in next(iter(combinations), {}) if len({str(one[key][0]) for one in combinations}) > 1}
        for chosen in combinations:
            yield _JobEntry(
                trail, JOBS[command], own | chosen, tuple(key for key in chosen if key in varied - NOT_AXES)
            )

    def products(self, matrix: Any, trail: Trail) -> Iterator[Located]:
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

    def located(self, mapping: dict[str, Any], trail: Trail) -> Located:
        """Keys as options spell them (`inner-steps` is `inner_steps`), each with its place."""
        return {key.replace("-", "_"): (value, self.document.at((*trail, key))) for key, value in mapping.items()}

    def drafts(self, entry: _JobEntry, changes: Located) -> Iterator[Draft]:
        """The jobs of one combination, one for each of its pictures, with their names."""
        known = recipe_keys(entry.model)
        settings = entry.settings | {key: change for key, change in changes.items() if key in known}
        template = settings.pop("output", None)
        for picture, own in self.pictures(entry.model, settings):
            job, found = try_job(entry.model, {key: value for key, (value, _) in own.items()})
            for problem in found:
                place = own[problem.key][1] if problem.key in own else self.document.at((*entry.trail, problem.key))
                self.problems.append(f"{place}: {problem.what}")
            if job is not None:
                yield self.named(entry, job, picture, template)

    def named(self, entry: _JobEntry, job: Job, picture: Picture | None, template: tuple[Any, str] | None) -> Draft:
        """With the name that its output template gives; alone and without a template it needs none."""
        if template is None and not self.several:
            return Draft(job, "")
        number = int(entry.trail[1]) + 1 if len(self.document.value["jobs"]) > 1 else None
        text, place = template or (default_template(number, picture is not None, entry.axes), "")
        try:
            return draft_of(job, picture, str(text))
        except ValueError as error:
            self.problems.append(f"{place}: {error}")
            return Draft(job, "")

    def pictures(self, model: type[Job], settings: Located) -> Iterator[tuple[Picture | None, Located]]:
        """The settings of each item: with its picture, and with what captions say about it."""
        key, captions = picture_key(model), self.captions(settings.pop("captions", None))
        listed = captions.listed() if captions and key == "image" else []
        value, place = settings.get(key) or (listed or None, captions.place if captions else "")
        found = self.find(value if isinstance(value, list) else [value], place) if value else None
        if found is None:
            yield None, settings
        elif key == "images":
            captioned = [self.about(captions, picture)[0].get("src", ("",))[0] for picture in found.pictures]
            src: Located = {"src": (captioned, place)} if any(captioned) else {}
            yield None, settings | {key: ([picture.text for picture in found.pictures], place)} | src
        else:
            pictures = dict.fromkeys(found.pictures)
            said = [(picture, about) for picture in pictures for about in self.about(captions, picture)]
            self.several |= found.several or len(said) > 1
            for picture, about in said:
                yield picture, settings | {key: (picture.text, place)} | about

    def about(self, captions: Captions | None, picture: Picture) -> list[Located]:
        """What captions say about a picture; nothing, once, where there are none or they cannot be read."""
        try:
            return captions.about(picture) if captions else [{}]
        except SmoothtoolError as error:
            self.problems.append(f"{captions.place if captions else ''}: {error.what}")
            return [{}]

    def captions(self, source: tuple[Any, str] | None) -> Captions | None:
        if source is None or source[0] is None:
            return None
        name, place = str(source[0]), source[1]
        beside = Path(self.document.source).parent / name
        if not os.path.exists(name) and os.path.isfile(beside):
            name = str(beside)
        try:
            self.sources[name] = self.sources.get(name) or Captions(name, place)
        except SmoothtoolError as error:
            self.problems.append(f"{place}: {error.what}")
        return self.sources.get(name)

    def find(self, names: list[Any], place: str) -> Found | None:
        """None also where the names are no texts, which the job tells better."""
        if not all(isinstance(name, (str, int)) and not isinstance(name, bool) for name in names):
            return None
        texts = tuple(str(name) for name in names)
        try:
            self.found[texts] = self.found.get(texts) or find_pictures(texts)
        except (ValueError, SmoothtoolError) as error:
            self.problems.append(f"{place}: {getattr(error, 'what', error)}")
        return self.found.get(texts)
