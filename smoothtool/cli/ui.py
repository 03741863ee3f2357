"""`smoothtool ui`: one page in the browser for morphs, edits and drags."""

from __future__ import annotations

import importlib.util
import secrets
import socket
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from smoothtool.cli import console
from smoothtool.cli.launch import silence_libraries
from smoothtool.errors import UsageError

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
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"the page needs {' and '.join(missing)}", "pip install 'smoothtool[ui]'")
    silence_libraries()
    from smoothtool.files.storage.output import results_folder
    from smoothtool.jobs import make_job
    from smoothtool.ui.runs import Session

    common = {"model": model, "lora": lora or [], "device": device, "dtype": dtype}
    make_job("edit", {"image": "samples:fox", "trg": "a fox", **common})  # a wrong value is reported now
    folder = output or Path("smoothtool-out") / f"ui-{datetime.now():%Y-%m-%d-%H%M%S}"
    with Session(results_folder(folder), common) as session, listen(port) as listener:
        _serve(session, listener, browser)


def listen(port: int) -> socket.socket:
    """A socket bound to 127.0.0.1. Raises: UsageError when the port is taken."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise UsageError(f"--port {port}: cannot be used ({error.strerror})", "--port 0 for a free one") from error
    return listener


def _serve(session: object, listener: socket.socket, browser: bool) -> None:
    import uvicorn

    from smoothtool.commands.shared.browser import open_in_browser
    from smoothtool.ui.server import create_app

    token, port = secrets.token_urlsafe(24), listener.getsockname()[1]
    address = f"http://127.0.0.1:{port}/?token={token}"
    hosts, invitation = {f"127.0.0.1:{port}", f"localhost:{port}"}, secrets.token_urlsafe(24)
    app = create_app(session, token, hosts, invitation)  # type: ignore[arg-type]
    console.data(address)
    console.notice("open that address; Ctrl-C ends the page")
    if browser:
        open_in_browser(f"http://127.0.0.1:{port}/?invitation={invitation}")
    uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False)).run(sockets=[listener])
