"""Run a plan: the moment when the torch half of the house is entered."""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smoothtool.cli import console
from smoothtool.cli.faults import failure, report_fault
from smoothtool.cli.figures import figure_lines
from smoothtool.cli.page import pick
from smoothtool.cli.shards import shard_from_environment
from smoothtool.cli.signals import at_once
from smoothtool.cli.streams import speaks_utf8
from smoothtool.commands import run_job
from smoothtool.errors import BatchError, Stopped, UsageError, closest
from smoothtool.jobs import DragJob, Job, parse_shard
from smoothtool.recipe.estimate import estimate_unet_calls
from smoothtool.recipe.memory import estimate_peak_bytes
from smoothtool.recipe.plan import Plan, batch_of_one
from smoothtool.recipe.writing import dump_plan, plan_document
from smoothtool.weights import settings
from smoothtool.weights.sample_pictures import resolve_picture

if TYPE_CHECKING:
    from smoothtool.types import Outcome

LIBRARIES = ("diffusers", "transformers", "peft", "huggingface_hub", "torch", "PIL")
SHOWN_FAILURES = 20
ENGINES = ("local", "ray")


@dataclass(frozen=True)
class RunOptions:
    """Flags of every run, which are no options of a job.

    dry_run       print the plan only
    shard         of a batch, a share: `1/4`
    retry_failed  of a batch, make again what failed before
    engine        who makes the items: `local` or `ray`
    workers       of Ray
    """

    dry_run: bool = False
    shard: str | None = None
    retry_failed: bool = False
    engine: str = "local"
    workers: int | None = None


def launch(plan: Plan, options: RunOptions) -> None:
    """Print the plan, run its one job, or work through it as a batch."""
    for note in plan.notes:
        console.notice(note)
    if plan.folder is None and _needs_batch(plan.items[0].job, options):
        plan = batch_of_one(plan)
    console.show.json |= any(getattr(item.job, "json_output", False) for item in plan.items)
    if plan.folder is not None and any(getattr(item.job, "pick", False) for item in plan.items):
        raise UsageError("--pick opens a page for one picture, not for a batch", "smoothtool drag picture.png --pick")
    if options.dry_run:
        show_plan(plan)
        for line in _origins(plan):
            console.notice(line)
        console.notice(_summary(plan))
        return
    if not console.show.debug:
        silence_libraries()
    if plan.folder is None:
        _run(plan.items[0].job)
    else:
        _run_batch(plan, options)


def show_plan(plan: Plan) -> None:
    """The plan on stdout, as a recipe that can be read back from wherever stdout leads; in JSON with what it takes."""
    if not console.show.json:
        console.data(dump_plan(plan, every_letter=speaks_utf8(sys.stdout)))
        return
    jobs = [item.job for item in plan.items]
    takes = {"unet_calls": estimate_unet_calls(jobs), "peak_memory_bytes": estimate_peak_bytes(jobs)}
    console.document({"ok": True, **plan_document(plan), **takes, "origins": _origins(plan)})


def _needs_batch(job: Job, options: RunOptions) -> bool:
    """Whether something is asked for that only a batch knows, or several processes were started on one picture.

    A glob that happens to match a single file looks like one plain file once the shell has replaced it.
    """
    asked = (
        options.shard is not None or options.retry_failed or options.engine != "local" or options.workers is not None
    )
    return asked or (bool(getattr(job, "image", None)) and shard_from_environment(os.environ)[1] > 1)


def _origins(plan: Plan) -> list[str]:
    """Why values that nobody gave, and that are not smoothtool's own, are as they are."""
    found = ((key, getattr(item.job, key), origin) for item in plan.items for key, origin in item.job.origins.items())
    lines = [f"{key} {value}: {origin}" for key, value, origin in dict.fromkeys(found)]
    root = settings.results_root()
    named = getattr(plan.items[0].job, "output", None) if plan.folder is None else plan.folder.parent != root
    if root != settings.RESULTS and not named:
        lines.append(f"output {root}: the default of {settings.settings_file()}")
    return lines


def _summary(plan: Plan) -> str:
    commands = Counter(item.job.command for item in plan.items)
    jobs = ", ".join(f"{count} {command}" for command, count in commands.items())
    calls = estimate_unet_calls(item.job for item in plan.items)
    memory = _memory(estimate_peak_bytes(item.job for item in plan.items))
    return f"{jobs}: about {calls:,} UNet calls{memory}" + (f", into {plan.folder}" if plan.folder else "")


def _memory(peak_bytes: Mapping[str, float]) -> str:
    """By precision; where that was left open, a GPU computes in float16 and a CPU in float32."""
    sizes = {dtype: f"{size / 1e9:.2g} GB" for dtype, size in peak_bytes.items()}
    if sizes.keys() == {"float16", "float32"}:
        return f", about {sizes['float16']} of memory on a GPU (float16) or {sizes['float32']} on a CPU (float32)"
    parts = [f"{size} of memory in {dtype}" for dtype, size in sizes.items()]
    return f", about {' or '.join(parts)}" if parts else ""


def _run_batch(plan: Plan, options: RunOptions) -> None:
    """stdout is the folder of every result, one a line, or batch.json; stderr a table, and what failed."""
    with console.Progress() as progress:
        batch = _loaded("smoothtool.batch.run", progress)
        force = any(getattr(item.job, "force", False) for item in plan.items)
        shard, engine = _shard(plan, options), _engine(options)
        asked = batch.BatchOptions(shard, options.retry_failed, force, engine, options.workers)
        outcomes = batch.run_batch(plan, asked, progress)
    assert plan.folder is not None
    if console.show.json:
        console.document(_batch_document(plan.folder, outcomes))
    else:
        for outcome in outcomes:
            if outcome.status in ("made", "skipped"):
                console.data(str(plan.folder / outcome.record["name"]))
    _tell(outcomes, plan)


def _batch_document(folder: Path, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """batch.json, and what went wrong in it, if anything did."""
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    problem = failure(BatchError.code, f"{len(failed)} of {len(outcomes)} items failed", "", BatchError.exit_code)
    return {**(problem if failed else {"ok": True}), **json.loads((folder / "batch.json").read_text("utf-8"))}


def _engine(options: RunOptions) -> str:
    if options.engine not in ENGINES:
        raise UsageError(
            f"--engine is {options.engine}, not one of {', '.join(ENGINES)}", closest(options.engine, ENGINES)
        )
    if options.engine == "local" and options.workers is not None:
        raise UsageError("--workers are for --engine ray", "--shard 1/2 and 2/2 for two processes without Ray")
    return options.engine


def _shard(plan: Plan, options: RunOptions) -> tuple[int, int]:
    """As asked, else as the launcher says; Ray divides the whole batch itself, whoever launched it.

    A training is one job for all processes of torchrun or accelerate: in a batch, where each process takes an item of
    its own, they would wait for each other for ever. Several trainings under Slurm take one item after the other.
    """
    if options.engine == "ray":
        if options.shard is not None:
            raise UsageError("--shard and --engine ray both divide the batch", "one of the two")
        return 1, 1
    if options.shard is not None:
        try:
            return parse_shard(options.shard)
        except ValueError as error:
            raise UsageError(f"--shard {error}", "--shard 1/2 on one machine, 2/2 on the other") from error
    trains = any(item.job.command == "train" for item in plan.items)
    if trains and os.environ.get("WORLD_SIZE", "1") != "1":
        raise UsageError(
            "a batch with a training in it runs in one process", "accelerate launch for one training alone"
        )
    return (1, 1) if trains else shard_from_environment(os.environ)


def _tell(outcomes: Sequence[Outcome], plan: Plan) -> None:
    rows: dict[str, Counter[str]] = {}
    for outcome in outcomes:
        rows.setdefault(outcome.command, Counter())[outcome.status] += 1
    for command, counts in rows.items():
        states = "  ".join(f"{counts[status]:>5} {status}" for status in ("made", "skipped", "failed", "waiting"))
        console.notice(f"{command:<12}{states}")
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    for outcome in failed[:SHOWN_FAILURES]:
        console.error(f"{outcome.name}: {outcome.record['error']}")
    if failed:
        raise BatchError(
            f"{len(failed)} of {len(outcomes)} items failed, all listed in {plan.folder}/index.html",
            "the same command with --retry-failed",
        )
    console.notice(f"see {plan.folder}/index.html")


def silence_libraries() -> None:
    """Logs and warnings of the libraries speak to programmers; must come before they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore")
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)


def _loaded(module: str, progress: console.Progress) -> Any:
    """The torch half of the house. Loading it takes seconds, in which Ctrl-C leaves at once."""

    def tell() -> None:
        progress.stop()
        console.notice("stopped: nothing was kept")
        report_fault(KeyboardInterrupt())

    with at_once(tell):
        return importlib.import_module(module)


def _run(job: Job) -> None:
    for name in (*getattr(job, "images", ()), getattr(job, "image", None)):
        if name:
            resolve_picture(name)  # a missing file is reported at once; importing torch takes seconds
    try:
        with console.Progress() as progress:
            _loaded(f"smoothtool.commands.{job.command}.run", progress)
            report = pick(job, progress) if isinstance(job, DragJob) and job.pick else run_job(job, progress)
    except KeyboardInterrupt as stop:
        kept = stop.kept if isinstance(stop, Stopped) else ""
        console.notice(f"stopped: {kept or 'nothing was kept'}")
        raise
    for line in figure_lines(report):
        console.notice(line)
    if console.show.json:
        from smoothtool.files.storage.reports import report_dict

        console.document({"ok": True, **report_dict(report)})
    else:
        console.data(str(report.folder))
