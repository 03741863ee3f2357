"""The page in the browser where a person clicks points and paints the mask: a static file and six small answers.

Bound to 127.0.0.1, and closed to everyone who does not have the token that is part of the address: other users of the
machine, other pages in the same browser (`Origin`), and names that resolve to this machine (`Host`).
"""

from __future__ import annotations

import base64
import json
import secrets
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from io import BytesIO
from pathlib import Path
from queue import Empty, Queue
from types import MappingProxyType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from PIL import Image

from smoothtool.commands.drag.page.local_server import LocalServer
from smoothtool.errors import InputError, SmoothtoolError
from smoothtool.files.lists.points import check_points, item_from_json
from smoothtool.files.pictures.images import load_image
from smoothtool.readers.fields import as_fields, parse_json
from smoothtool.types import DragPoints

PAGE = Path(__file__).parent / "index.html"
LARGEST_BODY_BYTES = 32_000_000
"""A painted mask is far smaller."""
SECONDS_TO_SEND = 10
LENGTH_DIGITS = 12
SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}


@dataclass(frozen=True)
class PageRequest:
    """What the person pressed, `run` or `save`, with the points and the painted mask as a PNG, or None."""

    action: str
    points: DragPoints
    mask_png: bytes | None


class PointPage:
    """Serve the page for one picture, as a context manager.

    Whoever holds it reads `requests()`, and tells the person how it goes through `progress`, `show` and `fail`.
    """

    def __init__(self, picture: Image.Image) -> None:
        self.size_px, self.token, self.nonce = picture.size, secrets.token_urlsafe(24), secrets.token_urlsafe(12)
        self.invitation: str | None = secrets.token_urlsafe(24)
        self.state: dict[str, Any] = {"busy": False, "progress": 0.0, "text": "", "error": "", "results": 0}
        self.queue: Queue[PageRequest | None] = Queue()
        self.pictures = {"/picture.png": _png(picture)}
        self.lock = threading.Lock()
        self._server = LocalServer(type("Handler", (_Handler,), {"page": self}))

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"{self.origin}/?token={self.token}"

    @property
    def url_for_browser(self) -> str:
        """Opens the page once: the command line of a browser can be read by every user of the machine."""
        return f"{self.origin}/?invitation={self.invitation}"

    def accepts_invitation(self, given: str) -> bool:
        """Whether it is the one, which is then used up."""
        with self.lock:
            right = self.invitation is not None and secrets.compare_digest(given.encode(), self.invitation.encode())
            if right:
                self.invitation = None
        return right

    def __enter__(self) -> PointPage:
        threading.Thread(target=self._server.serve_forever, args=(0.1,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def requests(self) -> Iterator[PageRequest]:
        """One by one, until the person presses Finish."""
        while True:
            try:
                request = self.queue.get(timeout=0.2)  # in short waits, so that Ctrl-C is heard
            except Empty:
                continue
            if request is None:
                return
            yield request

    def progress(self, text: str, fraction: float) -> None:
        self.state |= {"text": text, "progress": fraction}

    def show(self, result: Image.Image) -> None:
        """The result of the last `run`; the page is ready for the next."""
        self.pictures["/result.png"] = _png(result)
        self.state |= {"busy": False, "text": "done", "progress": 1.0, "results": self.state["results"] + 1}

    def say(self, text: str) -> None:
        """What came of the last request, when there is no picture to show."""
        self.state |= {"busy": False, "text": text}

    def fail(self, text: str) -> None:
        self.state |= {"busy": False, "error": text, "text": ""}

    def accept(self, action: str, body: bytes) -> tuple[HTTPStatus, str]:
        """Queue a request; one that cannot be meant is answered with the reason."""
        try:
            points = item_from_json(body, "the request").points
            check_points(points, self.size_px)
            mask = as_fields(parse_json(body, "the request"), "the request").text("mask", "")
            mask_png = base64.b64decode(mask, validate=True) if mask else None
            if mask_png is not None:
                self._check_mask(mask_png)
        except SmoothtoolError as error:
            return HTTPStatus.BAD_REQUEST, error.what.removeprefix("--point: ")
        except ValueError:
            return HTTPStatus.BAD_REQUEST, "the request: mask is not base64"
        with self.lock:
            if self.state["busy"]:
                return HTTPStatus.CONFLICT, "the last request is still being worked on"
            self.state |= {"busy": True, "progress": 0.0, "text": "starting", "error": ""}
        self.queue.put(PageRequest(action, points, mask_png))
        return HTTPStatus.ACCEPTED, ""

    def _check_mask(self, content: bytes) -> None:
        """Raises: InputError when it is no picture of the size of the one that is dragged in."""
        width, height = self.size_px
        mask = load_image(Path("the mask"), content=content, max_pixels=width * height)
        if mask.size != self.size_px:
            raise InputError(f"the mask: {mask.width}x{mask.height} px, the picture has {width}x{height}", "the page")


class _Handler(BaseHTTPRequestHandler):
    """Exact paths only: nothing in a request ever becomes a path on the disk."""

    page: PointPage
    timeout = SECONDS_TO_SEND
    server_version, sys_version = "smoothtool", ""

    def do_GET(self) -> None:
        path = self._entered()
        if path == "/":
            html = PAGE.read_text("utf-8").replace("__NONCE__", self.page.nonce)
            self._answer(HTTPStatus.OK, "text/html; charset=utf-8", html.encode())
        elif path == "/state":
            self._say(HTTPStatus.OK, {**self.page.state, "size": self.page.size_px})
        elif path in self.page.pictures:
            self._answer(HTTPStatus.OK, "image/png", self.page.pictures[path])
        elif path is not None:
            self._say(HTTPStatus.NOT_FOUND, {"error": "there is nothing here"})

    def do_POST(self) -> None:
        path = self._entered()
        if path is None:
            return
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self._say(HTTPStatus.LENGTH_REQUIRED, {"error": "a request needs its length"})
        elif len(length) > LENGTH_DIGITS or int(length) > LARGEST_BODY_BYTES:
            self._say(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": "the request is too large"})
        elif path in ("/run", "/save"):
            status, error = self.page.accept(path[1:], self.rfile.read(int(length)))
            self._say(status, {"error": error})
        elif path == "/finish":
            self.page.queue.put(None)
            self._say(HTTPStatus.OK, {"error": ""})
        else:
            self._say(HTTPStatus.NOT_FOUND, {"error": "there is nothing here"})

    def _entered(self) -> str | None:
        """The path that is asked for, or None after turning a stranger away, or showing the browser in."""
        try:
            parts = urlsplit(self.path)
            asked = {key: values[0] for key, values in parse_qs(parts.query).items()}
        except ValueError:
            self._say(HTTPStatus.BAD_REQUEST, {"error": "this is no address"})
            return None
        origin, host = self.headers.get("Origin"), self.headers.get("Host", "")
        here = origin in (None, self.page.origin) and f"http://{host}" == self.page.origin
        if here and secrets.compare_digest(asked.get("token", "").encode(), self.page.token.encode()):
            return parts.path
        if here and self.command == "GET" and self.page.accepts_invitation(asked.get("invitation", "")):
            self._answer(HTTPStatus.SEE_OTHER, "text/plain", b"", {"Location": f"/?token={self.page.token}"})
        else:
            self._say(HTTPStatus.FORBIDDEN, {"error": "open the address that smoothtool printed"})
        return None

    def _say(self, status: HTTPStatus, data: dict[str, Any]) -> None:
        self._answer(status, "application/json", json.dumps(data).encode())

    def _answer(
        self, status: HTTPStatus, kind: str, content: bytes, more: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        policy = (
            "default-src 'none'; img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
        )
        policy += f"form-action 'none'; script-src 'nonce-{self.page.nonce}'; style-src 'nonce-{self.page.nonce}'"
        self.send_response(status)
        for name, value in {**SECURITY_HEADERS, "Content-Security-Policy": policy, **more}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Connection", "close")  # a refused body is left unread
        self.close_connection = True
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        """The token is in every request line, and tokens do not belong in logs."""


def _png(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
