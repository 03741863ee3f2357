"""`smoothtool info`: what a picture says about its making."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from smoothtool.cli import console
from smoothtool.cli.flags import Json
from smoothtool.cli.streams import speaks_utf8
from smoothtool.errors import InputError

File = Annotated[Path, typer.Argument(metavar="PICTURE", help="A picture made by smoothtool", show_default=False)]


def info(picture: File, as_json: Json = False) -> None:
    """Show the settings inside a picture, as the recipe that makes it again."""
    from smoothtool.files.pictures.images import read_settings
    from smoothtool.weights.sample_pictures import resolve_picture
    from smoothtool.yaml12 import dump_yaml

    settings = read_settings(resolve_picture(str(picture)))
    if settings is None:
        raise InputError(f"{picture}: carries no settings of smoothtool", "the job.yaml beside the result")
    if as_json:
        console.document({"ok": True, "settings": settings})
    else:
        console.data(dump_yaml(settings, every_letter=speaks_utf8(sys.stdout)))
