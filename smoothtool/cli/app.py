"""The command `smoothtool`: a Typer app with one command per job model, and a few that need no model."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from shutil import get_terminal_size
from typing import Annotated

import typer
from typer.main import get_command

from smoothtool.cli import cached, console, doctor, lora, models, pictures, recipes, ui
from smoothtool.cli.console import NARROW
from smoothtool.cli.faults import Group, as_usage_error, report_fault
from smoothtool.cli.flags import job_command
from smoothtool.cli.launch import launch
from smoothtool.cli.signals import obey
from smoothtool.cli.streams import steady_streams
from smoothtool.errors import INTERRUPTED
from smoothtool.jobs import JOBS
from smoothtool.version import __version__

EXIT_CODES = (
    "Exit codes: 0 ok, 1 internal error, 2 usage, 3 a batch with failed items, 4 model or weights, 5 bad input, 6 out "
    "of memory, 7 no room or no right to write, 130 and 143 signals."
)
app = typer.Typer(
    name="smoothtool",
    help="Morph, invert, edit and drag pictures with a diffusion model whose latent space is smooth.",
    epilog=EXIT_CODES,
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        console.data(f"smoothtool {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show errors only")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and library logs")] = False,
) -> None:
    console.show.quiet, console.show.debug = quiet, debug
    os.getcwd()  # torch's libraries end the process where that folder is gone


for _job in JOBS.values():
    app.command(_job.command)(job_command(_job, launch))
app.command("run")(recipes.run)
app.command("info")(pictures.info)
app.command("ui")(ui.ui)
app.command("doctor")(doctor.doctor)
app.add_typer(recipes.app, name="recipe")
app.add_typer(models.app, name="models")
app.add_typer(lora.app, name="lora")
app.add_typer(cached.app, name="cache")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave the process with its exit code."""
    obey()
    if get_terminal_size().columns < NARROW:
        app.rich_markup_mode = None  # help without boxes, which would leave no room for words
    console.show.json = "--json" in (sys.argv[1:] if arguments is None else arguments)
    with steady_streams():
        try:
            code = get_command(app)(arguments, prog_name="smoothtool", standalone_mode=False) or 0
            if code == INTERRUPTED:  # what Typer makes of KeyboardInterrupt
                raise KeyboardInterrupt
            sys.exit(code)
        except (Exception, KeyboardInterrupt) as fault:
            sys.exit(report_fault(as_usage_error(fault)))
