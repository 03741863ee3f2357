"""`smoothtool run` and `smoothtool recipe`: jobs from a file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from smoothtool.cli import console
from smoothtool.cli.faults import Group
from smoothtool.cli.flags import Debug, DryRun, Json, Quiet, Retry, Shard
from smoothtool.cli.launch import RunOptions, launch, show_plan
from smoothtool.errors import UsageError, closest
from smoothtool.files.pictures.formats import is_picture
from smoothtool.files.storage.writing import write_bytes_atomic
from smoothtool.jobs.options import OUTPUT
from smoothtool.recipe.pictures import plan_picture
from smoothtool.recipe.plan import Plan
from smoothtool.recipe.reading import load_recipe
from smoothtool.recipe.schema import recipe_schema

app = typer.Typer(help="Check and show recipes.", cls=Group)
File = Annotated[Path, typer.Argument(help="A recipe, a job.yaml, or a picture made by smoothtool", show_default=False)]
Name = Annotated[str, typer.Argument(help="A name from smoothtool recipe ls", show_default=False)]
Target = Annotated[Path | None, typer.Argument(help="Where to; here by default", show_default=False)]
Engine = Annotated[
    str,
    typer.Option(
        "--engine",
        metavar="local|ray",
        help="Who makes the items of a batch: this process, or a Ray cluster",
        rich_help_panel=OUTPUT,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, help="Of Ray; one per GPU by default, or one per machine without", rich_help_panel=OUTPUT
    ),
]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Replace a key in every job that has it")
]


def run(
    file: File,
    overrides: Overrides = None,
    dry_run: DryRun = False,
    shard: Shard = None,
    retry_failed: Retry = False,
    engine: Engine = "local",
    workers: Workers = None,
    as_json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Run the jobs of a recipe, or make a result again from its job.yaml or picture."""
    console.show.also(quiet, debug)
    console.show.json |= as_json
    launch(_plan(file, overrides), RunOptions(dry_run, shard, retry_failed, engine, workers))


@app.command("ls")
def list_recipes(as_json: Json = False) -> None:
    """List the recipes that come with smoothtool."""
    rows = [{"name": path.stem, "about": _about(path)} for path in _shipped().values()]
    console.rows_or_document("recipes", rows, as_json)


@app.command("cp")
def copy_recipe(name: Name, target: Target = None, as_json: Json = False) -> None:
    """Copy a recipe that comes with smoothtool, and the table it reads, to be changed; prints their places."""
    source = _shipped().get(name.removesuffix(".yaml"))
    if source is None:
        raise UsageError(f"{name}: no such recipe", closest(name, _shipped()) or "smoothtool recipe ls")
    place = (target / source.name if target and target.is_dir() else target) or Path(source.name)
    if os.path.lexists(place):  # a link that leads nowhere is somebody's too
        raise UsageError(f"{place}: is there already", "another name")
    if not place.parent.is_dir():
        raise UsageError(f"{place.parent}: there is no such folder", f"mkdir -p {place.parent}")
    tables = [table for table in source.parent.glob("*.[cj]s*") if table.name in source.read_text("utf-8")]
    copies = {place: source, **{place.with_name(table.name): table for table in tables}}
    made = [path for path in copies if not os.path.lexists(path)]
    for path in made:
        write_bytes_atomic(path, copies[path].read_bytes())
    if as_json:
        console.document({"ok": True, "files": [str(path) for path in made]})
        return
    for path in made:
        console.data(str(path))


@app.command()
def validate(file: File, overrides: Overrides = None, as_json: Json = False) -> None:
    """Report every mistake in a recipe."""
    count = len(_plan(file, overrides).items)
    if as_json:
        console.document({"ok": True, "file": str(file), "jobs": count})
        return
    console.data(f"{file}: {count} job{'s' if count > 1 else ''}, no mistakes")


@app.command("show")
def show_recipe(file: File, overrides: Overrides = None, as_json: Json = False) -> None:
    """Print every job of a recipe, with defaults and combinations written out."""
    console.show.json |= as_json
    show_plan(_plan(file, overrides))


@app.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    console.data(json.dumps(recipe_schema(), indent=2))


def _plan(file: Path, overrides: list[str] | None) -> Plan:
    if is_picture(file):
        return plan_picture(file, overrides or [])
    name, there = str(file).removesuffix(".yaml"), os.path.exists(file)
    known = None if there else _shipped().get(name)
    if known is None and not there and (near := closest(name, _shipped())):
        raise UsageError(f"{file}: there is no such file, and no recipe of that name", near)
    return load_recipe(known or file, overrides or [])


def _shipped() -> dict[str, Path]:
    """Recipes by name: inside an installed package, or beside the package in a checkout."""
    package = Path(__file__).parents[1]
    folder = next((place for place in (package / "recipes", package.parent / "recipes") if place.is_dir()), package)
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def _about(recipe: Path) -> str:
    """The first comment line of a recipe says what it is for."""
    return recipe.read_text("utf-8").partition("\n")[0].lstrip("# ")
