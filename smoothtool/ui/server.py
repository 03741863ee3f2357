"""The page's server: bound to this machine, closed to other pages, other users and other names for it.

Whoever opens the printed address gets the token as a cookie that scripts cannot read, and an address without it.
Nothing in a request ever becomes a path: pictures, runs and files are looked up by names that were given out here.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Route

from smoothtool.errors import SmoothtoolError, explain
from smoothtool.ui.forms import COMMANDS, form_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Receive, Scope, Send

    from smoothtool.ui.runs import Session

HERE = Path(__file__).parent
COOKIE = "smoothtool"
LARGEST_PICTURE_BYTES = 64_000_000
LARGEST_REQUEST_BYTES = 1_000_000
STATIC = {"page.js": "text/javascript", "page.css": "text/css"}
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; img-src 'self' blob: data:; media-src 'self'; connect-src 'self'; "
    "script-src 'self'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
}


class Guard:
    """Turns strangers away before anything else happens: wrong Host, another Origin, no token."""

    def __init__(self, app: ASGIApp, token: str, hosts: set[str], invitation: str | None) -> None:
        self.app, self.token, self.hosts, self.invitation = app, token, hosts, invitation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        answer = self._refusal(request) or self._welcome(request)
        await (answer or self.app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        host, origin = request.headers.get("host", ""), request.headers.get("origin")
        strange = host not in self.hosts or (origin is not None and origin != f"http://{host}")
        given = request.cookies.get(COOKIE) or request.query_params.get("token", "")
        if strange or not (self._is_invited(request) or secrets.compare_digest(given.encode(), self.token.encode())):
            return _say(403, "open the address that smoothtool printed")
        return None

    def _is_invited(self, request: Request) -> bool:
        """Whether the browser shows the invitation, which is then used up: its command line is not secret."""
        given = request.query_params.get("invitation", "")
        invited = self.invitation is not None and secrets.compare_digest(given.encode(), self.invitation.encode())
        if invited:
            self.invitation = None
        return invited

    def _welcome(self, request: Request) -> Response | None:
        """The first visit: the token moves from the address into a cookie."""
        if not {"token", "invitation"} & request.query_params.keys():
            return None
        answer = RedirectResponse("/", status_code=303, headers=HEADERS)
        answer.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
        return answer


def create_app(session: Session, token: str, hosts: set[str], invitation: str | None = None) -> Guard:
    """The application.

    hosts       the `Host` headers it answers to, such as 127.0.0.1:8123
    invitation  stands for the token once, in an address that others may see
    """
    app = Starlette(routes=Answers(session).routes(), exception_handlers={Exception: _failed})
    return Guard(app, token, hosts, invitation)


class Answers:
    """What the page asks of its session, address by address."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def routes(self) -> list[Route]:
        return [
            Route("/", self.page),
            Route("/static/{name}", self.static),
            Route("/state", self.state),
            Route("/runs", self.runs),
            Route("/runs", self.start, methods=["POST"]),
            Route("/points", self.save_points, methods=["POST"]),
            Route("/finish", self.finish, methods=["POST"]),
            Route("/runs/{number:int}/stop", self.stop, methods=["POST"]),
            Route("/runs/{number:int}/files/{name:path}", self.result),
            Route("/pictures", self.add_picture, methods=["POST"]),
            Route("/pictures/{name}", self.picture),
        ]

    async def page(self, request: Request) -> Response:
        return Response((HERE / "page.html").read_text("utf-8"), media_type="text/html", headers=HEADERS)

    async def static(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in STATIC:
            return _say(404, "there is nothing here")
        return Response((HERE / name).read_text("utf-8"), media_type=STATIC[name], headers=HEADERS)

    async def state(self, request: Request) -> Response:
        return _json(
            {
                "forms": [form_of(command) for command in COMMANDS],
                "pictures": list(self.session.pictures),
                "runs": [run.shown() for run in self.session.runs],
                "start": self.session.start and asdict(self.session.start),
            }
        )

    async def runs(self, request: Request) -> Response:
        return _json({"runs": [run.shown() for run in self.session.runs]})

    async def add_picture(self, request: Request) -> Response:
        content = await _body(request, LARGEST_PICTURE_BYTES)
        if content is None:
            return _say(413, f"a picture of over {LARGEST_PICTURE_BYTES // 1_000_000} MB")
        try:
            return _json({"name": await run_in_threadpool(self.session.add_picture, content)}, 201)
        except SmoothtoolError as error:
            return _say(400, str(error))

    async def picture(self, request: Request) -> Response:
        path = self.session.pictures.get(request.path_params["name"])
        return _file(path) if path is not None else _say(404, "there is no such picture")

    async def start(self, request: Request) -> Response:
        return await _asked(request, lambda *asked: (self.session.run(*asked).shown(), 201))

    async def save_points(self, request: Request) -> Response:
        return await _asked(request, lambda _, *asked: ({"saved": str(self.session.save_points(*asked))}, 200))

    async def stop(self, request: Request) -> Response:
        self.session.stop(request.path_params["number"])
        return _json({})

    async def result(self, request: Request) -> Response:
        number, name = request.path_params["number"], request.path_params["name"]
        run = self.session.runs[number - 1] if 1 <= number <= len(self.session.runs) else None
        if run is None or run.report is None or name not in run.files:
            return _say(404, "there is no such file")
        return _file(run.report.folder / name)

    async def finish(self, request: Request) -> Response:
        self.session.finished.set()
        return _json({})


async def _asked(request: Request, work: Callable[[str, dict[str, Any], list[str]], tuple[Any, int]]) -> Response:
    """What comes of a command with its settings and pictures."""
    content = await _body(request, LARGEST_REQUEST_BYTES)
    try:
        asked = json.loads(content or b"")
        command, settings, pictures = asked["command"], dict(asked["settings"]), list(asked["pictures"])
        if command not in COMMANDS or not all(isinstance(name, str) for name in pictures):
            raise ValueError
    except (ValueError, KeyError, TypeError, RecursionError):
        return _say(400, "this is no request of the page")
    try:
        return _json(*await run_in_threadpool(work, command, settings, pictures))
    except SmoothtoolError as error:
        return _say(400, error.what)


async def _body(request: Request, limit: int) -> bytes | None:
    """What was sent, or None as soon as it is over `limit` bytes."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > limit:
            return None
    return bytes(content)


def _file(path: Path) -> Response:
    if not path.is_file():
        return _say(404, f"{path.name} is no longer there")
    return FileResponse(path, headers=HEADERS)


def _json(content: dict[str, Any], status: int = 200) -> Response:
    """In ASCII, which holds half letters too: an answer may repeat what a request said."""
    return Response(json.dumps(content), status, HEADERS, "application/json")


async def _failed(request: Request, fault: Exception) -> Response:
    return _say(500, str(explain(fault)))


def _say(status: int, error: str) -> Response:
    return _json({"error": error}, status)
