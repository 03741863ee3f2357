"""Job models -> Typer commands. A flag's name, help, default and range all come from the job's field."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo
from rich.markup import escape

from smoothtool.cli import console
from smoothtool.cli.launch import RunOptions
from smoothtool.jobs import Job, fields_of
from smoothtool.jobs.options import OUTPUT, choices_of, flag_of, key_of, kind_of, label_of, range_of
from smoothtool.recipe.plan import Plan, picture_key, plan_flags

METAVARS = {int: "INT", float: "FLOAT", Path: "PATH"}
PICTURES = "; several, folders, globs or - for a list on stdin make a batch"
SEEDS = "; several (1,2,3), or 4x for four, make a batch"
Shard = Annotated[
    str | None,
    typer.Option("--shard", help="Of a batch, do a share: 1/4 to 4/4, all with the same -o", rich_help_panel=OUTPUT),
]
Retry = Annotated[
    bool, typer.Option("--retry-failed", help="Of a batch, try again what failed before", rich_help_panel=OUTPUT)
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Print the plan as a recipe, its UNet calls and memory, and stop", rich_help_panel=OUTPUT
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document", rich_help_panel=OUTPUT)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show errors only", rich_help_panel=OUTPUT)]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and library logs", rich_help_panel=OUTPUT)]


def job_command(model: type[Job], go: Callable[[Plan, RunOptions], None]) -> Callable[..., None]:
    """A function with the signature Typer needs; it makes the plan and hands it to `go`.

    Values arrive as text and are checked by the job model alone, so that every mistake is reported at once.
    """
    own: list[tuple[str, Any]] = [("dry_run", DryRun), ("quiet", Quiet), ("debug", Debug)]
    if picture_key(model) == "image" or model.several_seeds:
        own += [("retry_failed", Retry), ("batch_shard", Shard)]

    def command(dry_run: bool, quiet: bool, debug: bool, **raw: Any) -> None:
        console.show.also(quiet, debug)
        options = RunOptions(dry_run, raw.pop("batch_shard", None), raw.pop("retry_failed", False))
        keys = {name: key_of(name, field) for name, field in fields_of(model)}
        given = {keys[name]: value for name, value in raw.items() if value not in (None, False, [])}
        go(plan_flags(model.command, given), options)

    parameters = [_parameter(name, field, model.several_seeds) for name, field in fields_of(model)]
    for name, kind in own:
        default = None if kind is Shard else False
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind))
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__name__, command.__doc__ = model.command, model.__doc__
    return command


def _parameter(name: str, field: FieldInfo, several_seeds: bool) -> inspect.Parameter:
    kind, flag = kind_of(field), flag_of(field)
    annotation: Any = {bool: bool, list: list[str] | None}.get(kind, str | None)
    options: dict[str, Any] = {"help": _help(field), "show_default": False}
    if name == "image":
        annotation = list[str] | None
        options["help"] += PICTURES
    if name == "seed" and several_seeds:
        annotation = list[str] | None
        options["help"] += SEEDS
    if kind is not bool:
        options |= {"metavar": _metavar(name, field), "autocompletion": _completion(choices_of(field))}
    if flag.positional:
        info = typer.Argument(**options)
    else:
        names = [label_of(name, field), *([flag.short] if flag.short else [])]
        info = typer.Option(*names, rich_help_panel=flag.panel, **options)
    default = False if kind is bool else None
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, info]
    )


def _help(field: FieldInfo) -> str:
    plain_default = not field.is_required() and field.default not in (None, "", []) and field.default is not False
    facts = [range_of(field).strip(), f"default {field.default}" if plain_default else ""]
    words = ", ".join(filter(None, facts))
    return escape(f"{field.description} ({words})" if words else str(field.description))


def _metavar(name: str, field: FieldInfo) -> str:
    if flag_of(field).positional:
        return name.upper()
    return "|".join(choices_of(field)) or METAVARS.get(kind_of(field), "TEXT")


def _completion(choices: tuple[str, ...]) -> Callable[[str], list[str]] | None:
    if not choices:
        return None

    def complete(incomplete: str) -> list[str]:
        return [choice for choice in choices if choice.startswith(incomplete)]

    return complete
