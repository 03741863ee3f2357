"""What a batch item is made of: its identity by content, the seed that follows from it, and its place in the folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smoothtool.batch.journal import Journal
from smoothtool.errors import SmoothtoolError, UsageError
from smoothtool.files.storage.digests import Digests, digest
from smoothtool.files.storage.output import results_folder
from smoothtool.jobs import parse_lora
from smoothtool.readers.fields import read_fields
from smoothtool.readers.regular import at_home
from smoothtool.recipe.documents import path_options
from smoothtool.version import __version__
from smoothtool.weights.loras import KNOWN_LORAS, resolve_lora
from smoothtool.weights.sample_pictures import resolve_picture

if TYPE_CHECKING:
    from smoothtool.jobs import Job
    from smoothtool.recipe.plan import Item

CONTENTS = "data"
"""An option that may be a name, and whose contents are input like those of pictures."""


@dataclass(frozen=True)
class Work:
    """An item with what it depends on: `inputs` and `settings` are digests, of contents and of everything else."""

    item: Item
    inputs: str
    settings: str

    @property
    def name(self) -> str:
        return self.item.name

    @cached_property
    def key(self) -> str:
        return f"{self.inputs}-{self.settings}"

    def job_in(self, folder: Path, known: bool) -> Job:
        """The job with its folder, and a seed that follows from its inputs: the same on any machine, in any order.

        known  there is a result in its place that has to be replaced
        """
        job, place = self.item.job, folder / self.name
        if not results_folder(place).is_relative_to(folder.resolve()):
            raise UsageError(f"{place}: a link leads out of the output folder", "delete the link")
        resumable = "resume" in type(job).model_fields
        changes: dict[str, Any] = {"output": place, "force": known and not (job.goes_on or resumable)}
        if job.settings().get("seed", 0) is None:
            changes["seed"] = int(self.inputs[:8], 16)
        return job.model_copy(update=changes | ({"resume": True} if resumable else {}))


def work_of(item: Item, digests: Digests) -> Work:
    """Where it is computed is no part of it: the shards of one batch may be on different GPUs.

    Raises: ModelError when the model or a LoRA is not there.
    """
    settings = item.job.settings()
    settings.pop("device", None)
    options = {key: kind for key, kind in sorted(path_options(item.job.command).items()) if key in settings}
    read = [key for key, (always, _) in options.items() if always or key == CONTENTS]
    inputs = {key: _contents(settings.pop(key), digests) for key in read}
    for key in options.keys() - inputs.keys():
        settings[key] = _identity(key, settings[key], options[key][1], digests)
    return Work(item, digest(inputs, 24), digest([item.job.command, settings, __version__], 24))


def _contents(value: Any, digests: Digests) -> Any:
    if isinstance(value, list):
        return [_contents(part, digests) for part in value]
    if value is None:
        return None
    try:
        path = resolve_picture(str(value))
    except SmoothtoolError:
        path = at_home(str(value))
    return digests.of(path) if os.path.exists(path) else str(value)


def _identity(key: str, value: Any, names: frozenset[str], digests: Digests) -> Any:
    """What a name of a model or LoRA stands for on this machine."""
    if isinstance(value, list):
        return [_identity(key, part, names, digests) for part in value]
    if key == "model":
        return digests.of_model(value)
    text, scale = parse_lora(value)
    if text in KNOWN_LORAS or (key == "lora" and value != "none"):
        return [digests.of(resolve_lora(text)), scale]
    return [digests.of(Path(text)), scale] if value not in names and os.path.exists(text) else value


def finished(work: Work, journal: Journal, names: set[str]) -> dict[str, Any] | None:
    """The record of this very work, wherever in the folder its result lies; `names` are those of the whole batch."""
    own = journal.latest.get(work.name)
    if own is not None and own["key"] == work.key:
        return own if own["status"] == "failed" or _is_there(journal, work.name) else None
    moved = journal.made.get(work.key, work.name)
    known = journal.latest.get(moved)
    there = known is not None and known["key"] == work.key and moved not in names and _is_there(journal, moved)
    return known if there else None


def made_by(journal: Journal, name: str) -> str:
    """The version of smoothtool that made a result, or nothing where its report does not say."""
    try:
        return read_fields(journal.folder / name / "report.json").fields("versions").text("smoothtool")
    except SmoothtoolError:
        return ""


def _is_there(journal: Journal, name: str) -> bool:
    return (journal.folder / name / "report.json").is_file()
