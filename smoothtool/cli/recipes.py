"""`smoothtool run` and `smoothtool recipe`: jobs from a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from smoothtool.cli import console
from smoothtool.cli.flags import Debug, DryRun, Quiet
from smoothtool.cli.launch import launch
from smoothtool.errors import InputError
from smoothtool.jobs import Job
from smoothtool.recipe import dump_recipe, expand, load_recipe, recipe_schema
from smoothtool.yaml12 import Document

PICTURES = (".png", ".jpg", ".jpeg", ".webp")
app = typer.Typer(help="Check and show recipes.", no_args_is_help=True)
File = Annotated[Path, typer.Argument(help="A recipe, a job.yaml, or a picture made by smoothtool", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Replace a key in every job that has it")
]


def run(
    file: File, overrides: Overrides = None, dry_run: DryRun = False, quiet: Quiet = False, debug: Debug = False
) -> None:
    """Run the jobs of a recipe, or make a result again from its job.yaml or picture."""
    console.show.also(quiet, debug)
    launch(_jobs(file, overrides), dry_run)


@app.command()
def validate(file: File, overrides: Overrides = None) -> None:
    """Report every mistake in a recipe."""
    jobs = _jobs(file, overrides)
    console.data(f"{file}: {len(jobs)} job{'s' if len(jobs) > 1 else ''}, no mistakes")


@app.command("show")
def show_recipe(file: File, overrides: Overrides = None) -> None:
    """Print every job of a recipe, with defaults and combinations written out."""
    console.data(dump_recipe(_jobs(file, overrides)))


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    console.data(json.dumps(recipe_schema(), indent=2))


def _jobs(file: Path, overrides: list[str] | None) -> list[Job]:
    if file.suffix.lower() not in PICTURES:
        return load_recipe(file, overrides or [])
    return expand(Document(_settings_in(file), str(file)), overrides or [])


def _settings_in(picture: Path) -> dict[str, Any]:
    from smoothtool.files.images import read_settings

    settings = read_settings(picture)
    if settings is None:
        raise InputError(f"{picture}: carries no settings of smoothtool", "the job.yaml beside the result")
    return settings
