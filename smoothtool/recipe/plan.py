"""What is to be done: jobs, and in a batch a name for each, that no two share and that never leads elsewhere."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from smoothtool.errors import UsageError, closest
from smoothtool.files.lists.inputs import Found, Picture, find_pictures
from smoothtool.files.storage.digests import digest
from smoothtool.files.storage.names import MAX_PART_BYTES, safe_name
from smoothtool.jobs import JOBS, Job, fields_of, keys_of, make_job
from smoothtool.jobs.notation import parse_seeds
from smoothtool.jobs.options import flag_of, key_of
from smoothtool.recipe.defaults import with_defaults
from smoothtool.weights.settings import results_root

RESERVED = re.compile(r"batch\.json|index\.html|items.*\.jsonl")
"""What a batch itself writes into its folder; what begins with a dot is never an item's name."""
PER_PICTURE = "{dir}/{stem}"


@dataclass(frozen=True)
class Item:
    """One job of a batch; its results go to the folder `name` (with forward slashes) below the batch's."""

    job: Job
    name: str


@dataclass(frozen=True)
class Plan:
    """One job on its own (`folder` is None), or a batch with a folder for all its items.

    notes  what was found where pictures were looked for, and is not among the items
    """

    items: tuple[Item, ...]
    folder: Path | None
    title: str
    notes: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Draft:
    """A job, the name its results should have, and the kind of file it starts from, which tells x.png from x.jpg."""

    job: Job
    name: str
    kind: str = ""


def plan_alone(job: Job) -> Plan:
    return Plan((Item(with_defaults(job), ""),), None, job.command)


def batch_of_one(plan: Plan) -> Plan:
    """The plan of one job as the batch that its picture would be in among others: for what only batches know."""
    job = plan.items[0].job
    name = getattr(job, "image", None)
    found = find_pictures([name]) if name else None
    picture = found.pictures[0] if found else None
    asked = {key: value for key, value in job.settings().items() if key != "image"}
    draft = draft_of(job, picture, default_template(None, picture is not None, ()))
    title = f"{job.command}-{found.title}" if found else job.command
    return plan_batch([draft], getattr(job, "output", None), title, asked)


def plan_batch(drafts: Sequence[Draft], folder: Path | None, title: str, asked: object) -> Plan:
    """A batch of these jobs.

    folder  None for a name derived from `asked`: the same settings continue there, other settings begin elsewhere
    asked   the settings that were given, as plain data, without the names of pictures
    """
    names = unique_names([(draft.name, draft.kind) for draft in drafts])
    items = tuple(Item(with_defaults(draft.job), name) for draft, name in zip(drafts, names, strict=True))
    return Plan(items, folder or results_root() / f"{safe_name(title)}-{digest(asked, 6)}", title)


def plan_flags(command: str, given: Mapping[str, Any]) -> Plan:
    """What a command line asks for; `image` and `images` are lists of files, folders, globs, or `-` for stdin.

    Raises: UsageError that names every wrong setting, one a line, as flags.
    """
    key = picture_key(JOBS[command])
    texts, seeds = list(given.get(key) or []), _seeds(given.get("seed"))
    if not texts:
        return _plan_found(command, given, key, None, seeds)
    try:
        found = find_pictures(texts)
    except ValueError as error:
        raise UsageError(f"{key.upper()} {error}", "a picture, a folder, a glob, or samples:NAME") from error
    return replace(_plan_found(command, given, key, found, seeds), notes=found.notes)


def _seeds(given: Any) -> list[Any]:
    """One seed or several. Raises: UsageError when one is there twice."""
    if not isinstance(given, list):
        return [given]
    try:
        return [*parse_seeds(given)]
    except ValueError as error:
        raise UsageError(f"--seed {error}", "every seed once") from error


def _plan_found(command: str, given: Mapping[str, Any], key: str, found: Found | None, seeds: list[Any]) -> Plan:
    """A job for every picture and every seed; alone, unless there are several or it was asked for several pictures."""
    each = found is not None and key == "image"
    pictures: list[Picture | None] = [*dict.fromkeys(found.pictures)] if found is not None and each else [None]
    whole = {key: [picture.text for picture in found.pictures]} if found is not None and not each else {}
    pairs = [(picture, seed) for picture in pictures for seed in seeds]
    jobs = [
        make_job(command, {**given, **whole, **({key: picture.text} if picture else {}), **_only("seed", seed)})
        for picture, seed in pairs
    ]
    if len(seeds) == 1 and not (found is not None and each and found.several):
        return plan_alone(jobs[0])
    template = default_template(None, each, ["seed"] if len(seeds) > 1 else [])
    drafts = [draft_of(job, picture, template) for job, (picture, _) in zip(jobs, pairs, strict=True)]
    asked = {name: value for name, value in jobs[0].settings().items() if name != key or not each}
    asked |= _only("seed", seeds if len(seeds) > 1 else None)
    title = f"{command}-{found.title}" if found is not None else command
    return plan_batch(drafts, Path(given["output"]) if "output" in given else None, title, asked)


def _only(key: str, value: Any) -> dict[str, Any]:
    return {} if value is None else {key: value}


@cache
def picture_key(model: type[Job]) -> str:
    """`image` of commands that run once per picture, `images` of those that take all at once, else nothing."""
    return next((key for key in ("image", "images") if key in keys_of(model)), "")


@cache
def recipe_keys(model: type[Job]) -> tuple[str, ...]:
    """A command's own options, and `captions` where there are pictures to describe."""
    return (*keys_of(model), *(["captions"] if picture_key(model) else []))


def draft_of(job: Job, picture: Picture | None, template: str) -> Draft:
    """Raises: ValueError as `render` does."""
    kind = picture.place.suffix.lstrip(".").lower() if picture else ""
    return Draft(job, render(template, facts_of(job, picture)), kind)


def default_template(job_number: int | None, has_picture: bool, axes: Sequence[str]) -> str:
    """The name that items get when a recipe gives none: sub-folder and stem, and what a matrix varies.

    job_number  from 1, in a recipe of several jobs
    """
    subject = PER_PICTURE if has_picture else "{command}" if job_number is None or axes else ""
    varied = "".join(f"-{key}-{{{key}}}" for key in axes)
    return ("" if job_number is None else f"{job_number}-{{command}}/") + subject + varied


def facts_of(job: Job, picture: Picture | None) -> dict[str, str]:
    """What an output template may hold in braces: parts of the picture's name, and options by key or short flag."""
    settings = job.settings()
    facts = {"command": job.command}
    if picture is not None:
        place = picture.place
        folder = "/".join(safe_name(part) for part in place.parent.parts)
        facts |= {"dir": folder, "stem": safe_name(place.stem), "name": safe_name(place.name)}
        facts["ext"] = place.suffix.lstrip(".")
    for name, option in fields_of(type(job)):
        key, short = key_of(name, option), flag_of(option).short.lstrip("-")
        if key in settings:
            facts[key] = _shown(settings[key])
            if short:
                facts[short] = facts[key]
    return facts


def render(template: str, facts: Mapping[str, str]) -> str:
    """The name of an item, below the batch's folder.

    Raises: ValueError when the template leads out of it, or holds what it cannot.
    """
    wrong = [word for word in re.findall(r"\{([^{}]*)\}", template) if word not in facts]
    if wrong:
        near = closest(wrong[0], facts)
        hint = f"did you mean {{{near}}}" if near else "one of " + ", ".join(f"{{{key}}}" for key in list(facts)[:5])
        raise ValueError(f"has {{{wrong[0]}}}, which means nothing here ({hint})")
    path = PurePosixPath(template.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"~|[A-Za-z]:", template):
        raise ValueError(f"is {template}, which leaves the output folder")
    filled = re.sub(r"\{([^{}]*)\}", lambda match: facts[match[1]], path.as_posix())
    parts = [safe_name(part) for part in filled.split("/") if part not in ("", ".")]
    if parts and RESERVED.fullmatch(parts[0].casefold()):
        parts[0] += "-"
    return "/".join(parts) or facts["command"]


def unique_names(wanted: Sequence[tuple[str, str]]) -> list[str]:
    """Names as wanted, except where two would be one folder, or one would lie inside another: x.png and x.jpg become
    x-png and x-jpg, and what still collides is numbered. Letter case makes no difference, as on many disks.

    wanted  (name, kind of file without its dot)
    """
    folded = [name.casefold() for name, _ in wanted]
    counts = Counter(folded)
    barred = {str(parent) for name in folded for parent in PurePosixPath(name).parents}
    clash = [counts[name] > 1 or name in barred for name in folded]
    taken = {name for name, clashes in zip(folded, clash, strict=True) if not clashes} | barred
    names = []
    for (name, kind), clashes in zip(wanted, clash, strict=True):
        names.append(_free(f"{name}-{kind}" if kind else f"{name}-1", taken) if clashes else name)
        taken.add(names[-1].casefold())
    return names


def _free(name: str, taken: set[str]) -> str:
    number, candidate = 1, name
    while candidate.casefold() in taken:
        number += 1
        candidate = f"{name}-{number}"
    return candidate


def _shown(value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    words = ["-".join(re.findall(r"[\w+=,-][\w.+=,-]*", str("none" if part is None else part))) for part in values]
    return "+".join(words)[:MAX_PART_BYTES] or "none"
