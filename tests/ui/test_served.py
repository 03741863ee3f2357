"""The page as it is served: what others on this machine send to it costs neither words nor the person's patience."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from smoothtool.cli.page import listen, serve
from smoothtool.errors import UsageError
from smoothtool.ui.runs import Session


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    told: list[str] = []
    ready = threading.Event()

    def tell(text: str) -> None:
        told.append(text)
        ready.set()

    with Session(tmp_path / "session", {}) as session, listen(0) as listener:
        thread = threading.Thread(target=serve, args=(session, listener, tell), kwargs={"browser": False})
        thread.start()
        assert ready.wait(20)
        yield told[0]
        session.finished.set()
        thread.join(20)
        assert not thread.is_alive()


def raw(address: str, content: bytes) -> socket.socket:
    port = int(re.findall(r":(\d+)/", address)[0])
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.sendall(content)
    return connection


def works(address: str) -> bool:
    with urllib.request.build_opener(urllib.request.HTTPCookieProcessor()).open(address, timeout=20) as answer:
        return b"smoothtool" in answer.read()


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET http://[ HTTP/1.1",
        b"GET //[/?token=x HTTP/1.1",
        b"GET /?token=%ff HTTP/1.1",
        b"GET",
        b"\xff\xfe\x00",
        b"POST /runs HTTP/9.9",
        b"GET / HTTP/1.1\r\nHost: \xff",
        b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 5000,
    ],
)
def test_a_malformed_request_is_answered_or_dropped_without_a_word(
    address: str, capfd: pytest.CaptureFixture[str], request_line: bytes
) -> None:
    with raw(address, request_line + b"\r\nConnection: close\r\n\r\n") as connection, contextlib.suppress(OSError):
        while connection.recv(65536):
            pass
    assert works(address)
    assert capfd.readouterr() == ("", "")


def test_a_client_that_hangs_up_leaves_no_word(address: str, capfd: pytest.CaptureFixture[str]) -> None:
    for content in (b"", b"GET /pic", b"POST /pictures HTTP/1.1\r\nContent-Length: 100\r\n\r\nhalf"):
        connection = raw(address, content)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not a goodbye
        connection.close()
    assert works(address)
    assert capfd.readouterr() == ("", "")


def test_half_open_connections_hold_no_threads_and_keep_nobody_out(address: str) -> None:
    before = threading.active_count()
    held = [raw(address, b"GET / HT") for _ in range(200)]
    assert works(address)
    assert threading.active_count() <= before + 2
    for connection in held:
        connection.close()


def test_a_port_that_is_taken_is_said() -> None:
    with listen(0) as taken, pytest.raises(UsageError, match="cannot be used"):
        listen(taken.getsockname()[1])
