"""`smoothtool ui`: one page in the browser for morphs, edits and drags."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from smoothtool.cli import console
from smoothtool.cli.launch import silence_libraries
from smoothtool.cli.page import check_extra, listen, serve
from smoothtool.weights.settings import results_root

Port = Annotated[int, typer.Option("--port", min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one")]
Browser = Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser")]
Model = Annotated[str, typer.Option("--model", "-m", help="Model, as for the other commands")]
Lora = Annotated[list[str] | None, typer.Option("--lora", help="LoRA as PATH[:SCALE]; repeat to stack")]
Device = Annotated[str, typer.Option("--device", help="Where to compute: auto, cpu, mps, cuda or cuda:N")]
Dtype = Annotated[str, typer.Option("--dtype", help="Precision of the weights")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Folder for pictures and results")]


def ui(
    port: Port = 0,
    browser: Browser = True,
    model: Model = "auto",
    lora: Lora = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    output: Output = None,
) -> None:
    """Open a page in the browser: morph, edit and drag, with live progress and a history."""
    check_extra()
    silence_libraries()
    from smoothtool.files.storage.output import check_writable, results_folder
    from smoothtool.jobs import make_job
    from smoothtool.ui.runs import Session

    chosen = {"model": model, "lora": lora or [], "device": device, "dtype": dtype}
    common = {key: value for key, value in chosen.items() if value not in ("auto", [])}  # the rest is left to settings
    make_job("edit", {"image": "samples:fox", "trg": "a fox", **common})  # a wrong value is reported now
    typed = output or results_root() / f"ui-{datetime.now():%Y-%m-%d-%H%M%S}"
    folder = results_folder(typed)
    check_writable(folder, typed)
    with Session(folder, common) as session, listen(port) as listener:
        serve(session, listener, _tell, browser=browser)


def _tell(address: str) -> None:
    console.data(address)
    console.notice("open that address; Ctrl-C ends the page")
