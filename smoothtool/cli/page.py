"""The page in the browser: served until Ctrl-C, or until the person presses Finish."""

from __future__ import annotations

import importlib.util
import secrets
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from smoothtool.errors import UsageError

if TYPE_CHECKING:
    from smoothtool.jobs import DragJob
    from smoothtool.types import Report, Track
    from smoothtool.ui.runs import Session

NOT_OF_THE_PAGE = ("image", "pick", "output", "force", "json", "points", "mask", "fit_mask")
"""Options of `drag --pick` that say where it begins and ends."""
BACKLOG = 128
PICTURE, MASK = "picture", "mask"


def check_extra() -> None:
    """Raises: UsageError when the extra with the server is not installed."""
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"the page needs {' and '.join(missing)}", "pip install 'smoothtool[ui]'")


def listen(port: int) -> socket.socket:
    """A socket bound to 127.0.0.1. Raises: UsageError when the port is taken."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(BACKLOG)  # a browser that comes before the server waits for it
    except OSError as error:
        listener.close()
        raise UsageError(f"--port {port}: cannot be used ({error.strerror})", "--port 0 for a free one") from error
    return listener


def serve(session: Session, listener: socket.socket, tell: Callable[[str], None], *, browser: bool = True) -> None:
    """Serve the page until Ctrl-C or Finish. `tell` is given its address, and the browser one that opens it once."""
    import uvicorn

    from smoothtool.commands.shared.browser import open_in_browser
    from smoothtool.ui.server import create_app

    token, port = secrets.token_urlsafe(24), listener.getsockname()[1]
    hosts, invitation = {f"127.0.0.1:{port}", f"localhost:{port}"}, secrets.token_urlsafe(24)
    app = create_app(session, token, hosts, invitation)
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False))

    def end() -> None:
        session.finished.wait()
        server.should_exit = True

    tell(f"http://127.0.0.1:{port}/?token={token}")
    threading.Thread(target=end, daemon=True).start()
    if browser:
        open_in_browser(f"http://127.0.0.1:{port}/?invitation={invitation}")
    server.run(sockets=[listener])


def pick(job: DragJob, track: Track) -> Report:
    """`drag --pick`: the page on its drag tab, with the picture and every option that was given.

    Returns the report of the last run, or one that names the saved points.
    """
    check_extra()
    if job.image is None:
        raise UsageError("--pick: there is no picture to click in", "smoothtool drag picture.png --pick")
    from smoothtool.commands.shared.folders import stopped_with
    from smoothtool.commands.shared.session import begin, read_picture
    from smoothtool.files.lists.points import load_mask
    from smoothtool.files.storage.output import output_folder
    from smoothtool.ui.forms import accepted_keys
    from smoothtool.ui.runs import Session, Start
    from smoothtool.weights.sample_pictures import resolve_picture

    begun, root, track = begin(job, [job.image], track)
    picture = read_picture(job.image, track)
    root.folder = output_folder(root.folder, force=job.force)
    given = {name: value for name, value in begun.settings().items() if name in job.model_fields_set}
    given |= begun.handover() | {"seed": begun.seed}
    given = {key: value for key, value in given.items() if key not in NOT_OF_THE_PAGE}
    on_page = {key: value for key, value in given.items() if key in accepted_keys("drag")}
    common = {key: value for key, value in given.items() if key not in on_page}
    with Session(root.folder, common, names="run-{number}", track=track) as session:
        shown = job.image if job.image in session.pictures else PICTURE
        session.pictures = {shown: resolve_picture(job.image), **session.pictures}
        if job.mask is not None:
            load_mask(job.mask, picture.size, fit=job.fit_mask)
            session.pictures[MASK] = job.mask
        session.start = Start("drag", [shown], MASK if job.mask is not None else "", on_page)

        def kept() -> str:
            made = session.saved is not None or any(run.report is not None for run in session.runs)
            return f"what was run and saved is in {root.folder}" if made else ""

        with stopped_with(kept), listen(0) as listener:
            serve(session, listener, lambda address: track.tell(f"open {address}"))
    reports = [run.report for run in session.runs if run.report is not None]
    if reports:
        return reports[-1]
    if session.saved is None:
        raise UsageError("--pick: the page was finished before anything was run or saved", "click two points, then Run")
    root.folder = session.saved
    return root
