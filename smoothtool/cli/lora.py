"""`smoothtool lora`: inspect, convert, merge and publish LoRAs."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

from smoothtool.cli import console
from smoothtool.cli.faults import Group
from smoothtool.cli.flags import Json
from smoothtool.cli.launch import silence_libraries
from smoothtool.cli.models import lora_info
from smoothtool.errors import UsageError, closest

app = typer.Typer(help="Inspect, convert, merge and publish LoRAs.", cls=Group)
Lora = Annotated[str, typer.Argument(metavar="LORA", help="A LoRA's file, folder or name", show_default=False)]
Target = Annotated[Path, typer.Argument(help="Where the result goes", show_default=False)]
Force = Annotated[bool, typer.Option("--force", "-f", help="Replace what is there")]
Model = Annotated[
    str, typer.Option("--model", "-m", help="A name, a hub id, a diffusers folder or a .safetensors file")
]
DIALECTS = ("diffusers", "kohya")
DTYPES = ("float16", "bfloat16", "float32")


@app.command()
def info(lora: Lora, as_json: Json = False) -> None:
    """Say what a LoRA is: architecture, format, rank, layers, dtype and what its trainer wrote into it."""
    lora_info(lora, as_json)


@app.command()
def convert(
    lora: Lora,
    target: Target,
    to: Annotated[str, typer.Option("--to", metavar="diffusers|kohya", help="Whose names the layers get")],
    model: Model = "auto",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write a LoRA of any format with the layers' names of diffusers, or of kohya (ComfyUI, A1111); prints its place.

    MODEL is one of the LoRA's architecture: its layers say what the names mean.
    """
    _one_of("--to", to, DIALECTS)
    silence_libraries()
    opened = _command("merge").open_model(model)[1]
    _told("file", _command("convert").convert(lora, target, opened, to, force=force), as_json)


@app.command()
def merge(
    target: Target,
    lora: Annotated[list[str], typer.Option("--lora", help="LoRA as PATH[:SCALE] or NAME[:SCALE]; repeat to stack")],
    model: Model = "auto",
    dtype: Annotated[
        str, typer.Option("--dtype", metavar="|".join(DTYPES), help="Precision of the weights in a folder")
    ] = "float16",
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Add LoRAs to a model's weights, as a diffusers folder, or a .safetensors file of a model that is one."""
    _one_of("--dtype", dtype, DTYPES)
    silence_libraries()
    _told("model", _command("merge").merge(model, lora, target, dtype=dtype, force=force), as_json)


@app.command()
def push(
    lora: Lora,
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="On the hub", show_default=False)],
    istd: Annotated[
        Path | None, typer.Option("--istd", help="Folder of smoothtool istd --compare-lora, for the card")
    ] = None,
    walk: Annotated[
        Path | None, typer.Option("--walk", help="PNG of a sample walk; by default the training's newest")
    ] = None,
    base_model: Annotated[str, typer.Option("--base-model", help="Hub id of the base model, if it is not known")] = "",
    licence: Annotated[str, typer.Option("--licence", help="As the hub spells it, such as openrail++")] = "other",
    private: Annotated[bool, typer.Option("--private", help="Make a private repository")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write the files here instead, and push nothing")
    ] = None,
    as_json: Json = False,
) -> None:
    """Push a LoRA (a file, or the folder of a training) to the Hugging Face hub, with a card made from what is known.

    The card says base model, lambda, rank, ISTD without and with the LoRA, and shows a sample walk.
    """
    command = _command("push")
    asked = command.Push(lora, repository, base_model, licence, istd, walk, private)
    with command.prepared(asked) as folder:
        if output is not None:
            _told("card", command.keep(folder, output)[0].parent / command.CARD, as_json)
            return
        for path in sorted(folder.iterdir()):
            console.notice(f"{path.name}  {path.stat().st_size / 1e6:.2f} MB")
        _told("url", command.upload(asked, folder), as_json)


def _command(name: str) -> Any:
    return importlib.import_module(f"smoothtool.commands.lora.{name}")


def _one_of(flag: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{flag} is {value}, not one of {', '.join(known)}", closest(value, known) or known[0])


def _told(key: str, value: object, as_json: bool) -> None:
    if as_json:
        console.document({"ok": True, key: str(value)})
    else:
        console.data(str(value))
