"""The page's server: what it gives to the page, and what it refuses."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("starlette")
pytest.importorskip("httpx")
from starlette.testclient import TestClient

from smoothtool.errors import InputError
from smoothtool.files.pictures import images
from smoothtool.ui.runs import Session
from smoothtool.ui.server import LARGEST_REQUEST_BYTES, create_app

HOST = "127.0.0.1:8123"
CHEAP = {"model": "stickers", "lora": ["none"]}


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with Session(tmp_path / "session", CHEAP) as session:
        yield session


@pytest.fixture
def client(session: Session) -> TestClient:
    client = TestClient(create_app(session, "secret", {HOST}), base_url=f"http://{HOST}")
    client.get("/?token=secret")
    return client


def png(size: tuple[int, int] = (64, 64)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "PNG")
    return buffer.getvalue()


def finished(client: TestClient, number: int = 1, seconds: float = 120) -> dict[str, Any]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        run = client.get("/runs").json()["runs"][number - 1]
        if run["status"] not in ("waiting", "running"):
            return run
        time.sleep(0.05)
    raise AssertionError(f"still {run['status']} at {run['stage']}")


def test_an_invitation_opens_the_page_once_and_gives_the_cookie(session: Session) -> None:
    app = create_app(session, "secret", {HOST}, "once")
    first, second = (TestClient(app, base_url=f"http://{HOST}", follow_redirects=False) for _ in range(2))
    assert first.get("/?invitation=wrong").status_code == 403
    answer = first.get("/?invitation=once")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert first.get("/").status_code == 200
    assert second.get("/?invitation=once").status_code == 403


def test_the_token_moves_from_the_address_into_a_cookie(session: Session) -> None:
    client = TestClient(create_app(session, "secret", {HOST}), base_url=f"http://{HOST}", follow_redirects=False)
    answer = client.get("/?token=secret")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert "httponly" in answer.headers["set-cookie"].lower()
    assert "samesite=strict" in answer.headers["set-cookie"].lower()
    assert client.get("/").status_code == 200


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/", {"cookie": ""}),
        ("/?token=wrong", {"cookie": ""}),
        ("/state", {"host": "evil.example"}),
        ("/state", {"origin": "http://evil.example"}),
        ("/state", {"origin": "null"}),
    ],
)
def test_strangers_are_turned_away(client: TestClient, path: str, headers: dict[str, str]) -> None:
    if "cookie" in headers:
        client.cookies.clear()
    assert client.get(path, headers=headers).status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/server.py",
        "/pictures/..%2F..%2Fetc%2Fpasswd",
        "/runs/1/files/report.json",
        "/runs/0/files/x",
        "/runs/99/files/../../x",
        "/nothing",
    ],
)
def test_nothing_but_what_was_given_out_can_be_had(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_the_page_and_its_parts_are_served_with_a_strict_policy(client: TestClient) -> None:
    for path in ("/", "/static/page.js", "/static/page.css"):
        answer = client.get(path)
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "<script>" not in client.get("/").text


def test_a_dropped_picture_gets_a_name_of_ours_and_comes_back(client: TestClient, session: Session) -> None:
    name = client.post("/pictures", content=png()).json()["name"]
    assert name == "picture-1"
    assert client.get(f"/pictures/{name}").content == png()
    assert session.pictures[name].is_relative_to(session.folder)


def test_a_file_that_is_no_picture_is_refused_in_a_sentence_and_not_kept(client: TestClient, session: Session) -> None:
    answer = client.post("/pictures", content=b"hello")
    assert answer.status_code == 400
    assert "this file" in answer.json()["error"]
    assert str(session.folder) not in answer.json()["error"]
    assert not list((session.folder / "pictures").iterdir())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"command": "train", "settings": {}, "pictures": []}',
        b'{"command": "edit", "settings": 3, "pictures": []}',
    ],
)
def test_requests_that_the_page_never_makes_are_refused(client: TestClient, body: bytes) -> None:
    assert client.post("/runs", content=body).status_code == 400


def test_a_request_that_is_too_large_is_refused(client: TestClient) -> None:
    assert client.post("/runs", content=b" " * (LARGEST_REQUEST_BYTES + 1)).status_code == 400


@pytest.mark.parametrize(
    ("settings", "pictures", "words"),
    [
        ({"output": "/etc"}, ["samples:fox"], "output: no option of this page"),
        ({"clip": "/etc"}, ["samples:fox"], "clip: no option of this page"),
        ({"trg": "a cat", "steps": "many"}, ["samples:fox"], "--steps is many"),
        ({"trg": "a cat"}, ["/etc/passwd"], "no picture of this page"),
    ],
)
def test_what_cannot_be_meant_is_said_before_anything_runs(
    client: TestClient, settings: dict[str, Any], pictures: list[str], words: str
) -> None:
    answer = client.post("/runs", json={"command": "edit", "settings": settings, "pictures": pictures})
    assert answer.status_code == 400
    assert words in answer.json()["error"]
    assert client.get("/runs").json()["runs"] == []


def test_an_edit_by_two_ratios_is_made_and_shown(client: TestClient) -> None:
    settings = {"src": "a 3d fox", "trg": ["a 3d cat"], "ratio": ["0.5", "1"], "steps": "2", "inversion": "ddim"}
    answer = client.post("/runs", json={"command": "edit", "settings": settings, "pictures": ["samples:fox"]})
    assert answer.json()["line"].startswith("smoothtool edit samples:fox --src 'a 3d fox' --trg 'a 3d cat'")
    run = finished(client)
    assert (run["status"], run["error"]) == ("done", "")
    pictures = [name for name in run["files"] if name.startswith("edited")]
    assert len(pictures) == 2
    assert client.get(f"/runs/1/files/{pictures[0]}").headers["content-type"] == "image/png"


def test_a_run_that_fails_says_why_and_the_next_one_works(client: TestClient, session: Session) -> None:
    name = client.post("/pictures", content=png()).json()["name"]
    session.pictures[name].write_bytes(b"gone bad")
    edit = {"command": "edit", "settings": {"trg": "a cat", "steps": "1", "method": "sdedit"}}
    client.post("/runs", json={**edit, "pictures": [name]})
    client.post("/runs", json={**edit, "pictures": ["samples:fox"]})
    assert finished(client, 1)["status"] == "failed"
    assert finished(client, 1)["error"]
    assert finished(client, 2)["status"] == "done"


def test_a_stopped_run_keeps_nothing(client: TestClient, session: Session) -> None:
    settings = {"src": ["a fox"], "steps": "400"}
    client.post(
        "/runs", json={"command": "interpolate", "settings": settings, "pictures": ["samples:fox", "samples:cat"]}
    )
    while client.get("/runs").json()["runs"][0]["total"] == 0:
        time.sleep(0.05)
    client.post("/runs/1/stop")
    assert finished(client)["status"] == "stopped"
    assert not (session.folder / "1-interpolate").exists()


def test_of_pictures_that_come_at_once_a_refused_one_gives_no_other_its_name(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad, read = png(), b"hello", images.load_image

    def load_image(path: Path) -> Image.Image:
        if path.read_bytes() == bad:
            session.add_picture(good)  # while the bad one is being read
        return read(path)

    monkeypatch.setattr(images, "load_image", load_image)
    with pytest.raises(InputError):
        session.add_picture(bad)
    session.add_picture(png((32, 32)))
    contents = [path.read_bytes() for name, path in session.pictures.items() if name.startswith("picture")]
    assert contents == [good, png((32, 32))]


def test_half_letters_in_a_request_are_answered_in_a_sentence(client: TestClient) -> None:
    half = '{"command": "edit", "settings": {"\\ud800": 1}, "pictures": ["samples:fox"]}'
    answer = client.post("/runs", content=half)
    assert (answer.status_code, answer.json()["error"]) == (400, "\ud800: no option of this page")


def test_files_that_were_deleted_meanwhile_are_said_to_be_gone(client: TestClient, session: Session) -> None:
    name = client.post("/pictures", content=png()).json()["name"]
    session.pictures[name].unlink()
    answer = client.get(f"/pictures/{name}")
    assert (answer.status_code, answer.json()["error"]) == (404, "picture-1.png is no longer there")


def test_a_place_that_cannot_be_written_is_an_answer(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with Session(tmp_path / "taken", CHEAP) as session:
        client = TestClient(create_app(session, "secret", {HOST}), base_url=f"http://{HOST}")
        client.get("/?token=secret")
        answer = client.post("/pictures", content=png())
        assert answer.status_code == 400
        assert f"{tmp_path / 'taken'}: cannot be written" in answer.json()["error"]


def test_what_nobody_expected_is_told_too(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    app = create_app(session, "secret", {HOST})
    client = TestClient(app, base_url=f"http://{HOST}", raise_server_exceptions=False)
    client.get("/?token=secret")
    monkeypatch.setattr(session, "stop", lambda number: [][number])
    answer = client.post("/runs/1/stop")
    assert (answer.status_code, "internal error: IndexError" in answer.json()["error"]) == (500, True)
