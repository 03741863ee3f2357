"""The page's server: what it gives to the person with the address, and what it refuses to everyone else."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import struct
import threading
import time
from io import BytesIO

import pytest
from PIL import Image

from smoothtool.commands.drag.page.local_server import MOST_CONNECTIONS
from smoothtool.commands.drag.page.server import LARGEST_BODY_BYTES, PointPage

POINTS = {"points": [{"handle": [3, 4], "target": [10, 12]}], "mask": None}


@pytest.fixture
def page():
    with PointPage(Image.new("RGB", (40, 24), "orange")) as opened:
        yield opened


def painted(size: tuple[int, int]) -> str:
    buffer = BytesIO()
    Image.new("L", size, 255).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def raw(page, content: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", page._server.server_port), timeout=5)
    connection.sendall(content)
    return connection


def ask(page, method, path, body=None, token=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", int(page.origin.rpartition(":")[2]), timeout=5)
    connection.request(method, f"{path}?token={page.token if token is None else token}", body, headers or {})
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content, answer.headers


def test_the_page_and_the_picture_are_given_to_the_person_with_the_token(page):
    status, html, headers = ask(page, "GET", "/")
    assert status == 200
    assert f'nonce="{page.nonce}"'.encode() in html
    assert f"script-src 'nonce-{page.nonce}'" in headers["Content-Security-Policy"]
    status, png, _ = ask(page, "GET", "/picture.png")
    assert (status, png[1:4]) == (200, b"PNG")


@pytest.mark.parametrize("path", ["/", "/picture.png", "/state", "/result.png"])
@pytest.mark.parametrize("token", ["", "wrong", "%C3%A9"])
def test_a_wrong_token_is_refused_everywhere(page, path, token):
    status, content, _ = ask(page, "GET", path, token=token)
    assert status == 403
    assert b"smoothtool" in content


def test_another_origin_is_refused_even_with_the_token(page):
    headers = {"Origin": "https://example.com"}
    assert ask(page, "POST", "/run", json.dumps(POINTS), headers=headers)[0] == 403
    assert page.queue.empty()
    assert ask(page, "POST", "/run", json.dumps(POINTS), headers={"Origin": page.origin})[0] == 202


def test_another_host_name_is_refused_even_with_the_token(page):
    assert ask(page, "GET", "/state", headers={"Host": "evil.example"})[0] == 403


@pytest.mark.parametrize(
    "path", ["/../server.py", "/%2e%2e/server.py", "//etc/passwd", "/index.html", "/picture.png/.."]
)
def test_paths_outside_lead_nowhere(page, path):
    assert ask(page, "GET", path)[0] == 404


def test_a_huge_body_is_refused_unread(page):
    headers = {"Content-Length": str(LARGEST_BODY_BYTES + 1)}
    assert ask(page, "POST", "/run", headers=headers)[0] == 413


def test_a_body_of_unknown_length_is_refused(page):
    assert ask(page, "POST", "/run", headers={"Transfer-Encoding": "chunked", "Content-Length": "x"})[0] == 411


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not readable JSON"),
        (b"[]", "not a JSON object"),
        (b'{"points": []}', "no points"),
        (b'{"points": [{"handle": [1, 2], "target": null}]}', "target is missing"),
        (b'{"points": [{"handle": [1, 2], "target": [40, 3]}]}', "outside the picture"),
        (b'{"points": [{"handle": [1, 2], "target": [1, 2]}]}', "own target"),
        (b'{"points": [{"handle": [1, 2], "target": [3, NaN]}]}', "not a place"),
        (b'{"points": [{"handle": [1, 2], "target": [3, 4]}], "mask": "%"}', "mask is not base64"),
    ],
)
def test_points_that_cannot_be_meant_are_answered_with_the_reason(page, body, words):
    status, content, _ = ask(page, "POST", "/run", body)
    assert status == 400
    assert words in json.loads(content)["error"]
    assert page.queue.empty()


def test_a_request_arrives_with_points_and_mask_and_a_second_waits_for_the_result(page):
    body = json.dumps({**POINTS, "mask": painted((40, 24))})
    assert ask(page, "POST", "/run", body)[0] == 202
    request = next(page.requests())
    assert (request.action, request.mask_png[1:4]) == ("run", b"PNG")
    assert request.points.targets_xy_px == ((10.0, 12.0),)
    assert ask(page, "POST", "/run", body)[0] == 409
    page.progress("dragging", 0.5)
    state = json.loads(ask(page, "GET", "/state")[1])
    assert (state["busy"], state["progress"], state["size"]) == (True, 0.5, [40, 24])
    page.show(Image.new("RGB", (40, 24)))
    assert json.loads(ask(page, "GET", "/state")[1])["results"] == 1
    assert ask(page, "GET", "/result.png")[1][1:4] == b"PNG"


def test_finish_ends_the_requests(page):
    assert ask(page, "POST", "/finish", b"")[0] == 200
    assert list(page.requests()) == []


def test_the_server_listens_on_this_machine_alone(page):
    assert page._server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (base64.b64encode(b"junk").decode(), "the mask: this is not a picture"),
        (painted((41, 24)), "the mask: "),
        (painted((24, 40)), "24x40 px, the picture has 40x24"),
    ],
)
def test_what_is_no_mask_is_told_before_anything_is_run(page, mask, words):
    status, content, _ = ask(page, "POST", "/run", json.dumps({**POINTS, "mask": mask}))
    assert status == 400
    assert words in json.loads(content)["error"]
    assert page.queue.empty()
    assert not page.state["busy"]


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET http://[ HTTP/1.1",
        b"GET //[/?token=x HTTP/1.1",
        b"GET /?token=%ff HTTP/1.1",
        b"GET",
        b"\xff\xfe\x00",
        b"POST /run HTTP/9.9",
        b"GET / HTTP/1.1\r\nHost: \xff",
        b"POST / HTTP/1.1\r\nContent-Length: " + b"9" * 5000,
    ],
)
def test_a_malformed_request_is_answered_or_dropped_without_a_word(page, capfd, request_line):
    with raw(page, request_line + b"\r\n\r\n") as connection:
        while connection.recv(65536):
            pass
    assert ask(page, "GET", "/state")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_a_huge_length_is_refused_unread(page):
    assert ask(page, "POST", "/run", headers={"Content-Length": "9" * 5000})[0] == 413


def test_a_client_that_hangs_up_leaves_no_word(page, capfd):
    for content in (
        b"",
        b"GET /pic",
        b"GET /picture.png?token="
        + page.token.encode()
        + b" HTTP/1.1\r\n"
        + f"Host: {page.origin[7:]}\r\n\r\n".encode(),
    ):
        connection = raw(page, content)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not a goodbye
        connection.close()
    assert ask(page, "GET", "/state")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_half_open_connections_hold_few_threads_and_keep_nobody_out(page):
    before = threading.active_count()
    held = [raw(page, b"GET / HT") for _ in range(200)]
    assert ask(page, "GET", "/state")[0] == 200
    end = time.monotonic() + 10
    while threading.active_count() > before + MOST_CONNECTIONS + 2 and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() <= before + MOST_CONNECTIONS + 2
    for connection in held:
        connection.close()


def test_the_address_for_the_browser_opens_the_page_once_and_is_not_the_token(page):
    address = page.url_for_browser
    assert page.token not in address
    path = address.removeprefix(page.origin) + "&"
    connection = http.client.HTTPConnection("127.0.0.1", page._server.server_port, timeout=5)
    connection.request("GET", path)
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Location"]) == (303, f"/?token={page.token}")
    connection.close()
    connection.request("GET", path)
    assert connection.getresponse().status == 403
    connection.close()


def test_the_invitation_is_for_the_page_alone(page):
    headers = {"Host": "evil.example"}
    assert ask(page, "GET", "/", token=f"&invitation={page.invitation}", headers=headers)[0] == 403
    assert ask(page, "POST", "/run", b"{}", token=f"&invitation={page.invitation}")[0] == 403
    assert page.invitation is not None
