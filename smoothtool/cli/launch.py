"""Run jobs: the moment when the torch half of the house is entered."""

from __future__ import annotations

import importlib
import json
import logging
import os
import warnings

from smoothtool.cli import console
from smoothtool.jobs import Job
from smoothtool.recipe import dump_recipe

LIBRARIES = ("diffusers", "transformers", "peft", "huggingface_hub", "torch", "PIL")


def launch(jobs: list[Job], dry_run: bool) -> None:
    """Print the plan, or run the jobs one after another."""
    if dry_run:
        console.data(dump_recipe(jobs))
        return
    if not console.show.debug:
        silence_libraries()
    for job in jobs:
        _run(job)


def silence_libraries() -> None:
    """Logs and warnings of the libraries speak to programmers; must come before they are imported."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore")
    for name in LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)


def _run(job: Job) -> None:
    with console.Progress() as progress:
        command = importlib.import_module(f"smoothtool.commands.{job.command}")
        report = command.run(job, progress)
    for note in report.notes:
        progress.note(note)
    if getattr(job, "json_output", False):
        from smoothtool.files.reports import report_dict

        console.data(json.dumps(report_dict(report), indent=2))
    else:
        console.data(str(report.folder))
