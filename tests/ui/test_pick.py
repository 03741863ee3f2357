"""`smoothtool drag --pick`, with a person who is a thread: run, save, finish."""

from __future__ import annotations

import io
import json
import threading
import time
import urllib.request
from collections.abc import Callable
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")

from cli_toys import call_main

import smoothtool as st
from smoothtool.cli import page
from smoothtool.commands.shared import browser
from smoothtool.errors import InputError, Stopped, UsageError
from smoothtool.jobs import DragJob, make_job
from smoothtool.types import Silent
from smoothtool.ui import runs

POINT = {"point": ["8,12:24,12"]}


class Person(Silent):
    """Presses buttons as soon as the address is told, each when the one before has been answered."""

    def __init__(self, *presses: Callable[[Person], Any]) -> None:
        self.presses, self.answers, self.state = presses, list[Any](), dict[str, Any]()
        self.jar = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))

    def tell(self, text: str) -> None:
        if text.startswith("open "):
            self.address = text[5:]
            threading.Thread(target=self.press_all, daemon=True).start()

    def press_all(self) -> None:
        try:
            self.jar.open(self.address, timeout=20).read()
            self.state = self.ask("/state")
            self.answers += [press(self) for press in self.presses]
        finally:
            self.ask("/finish", b"")

    def ask(self, path: str, body: bytes | None = None) -> Any:
        with self.jar.open(self.address.partition("/?")[0] + path, body, timeout=20) as answer:
            return json.load(answer)

    def asked(self, path: str, pictures: list[str], settings: dict[str, Any]) -> Any:
        return self.ask(path, json.dumps({"command": "drag", "settings": settings, "pictures": pictures}).encode())


def run(mask: bool = False, **settings: Any) -> Callable[[Person], Any]:
    def press(person: Person) -> Any:
        pictures = list(person.state["start"]["pictures"])
        if mask:
            buffer = io.BytesIO()
            Image.new("L", (32, 32), 255).save(buffer, "PNG")
            pictures.append(person.ask("/pictures", buffer.getvalue())["name"])
        number = person.asked("/runs", pictures, {**person.state["start"]["settings"], **POINT, **settings})["number"]
        while (found := person.ask("/runs")["runs"][number - 1])["status"] in ("waiting", "running"):
            time.sleep(0.02)
        return found

    return press


def save(person: Person) -> Any:
    return person.asked("/points", person.state["start"]["pictures"], {**POINT, "src": "a cat"})


@pytest.fixture
def job(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DragJob:
    monkeypatch.setattr(browser.webbrowser, "open", lambda url: True)
    Image.new("RGB", (32, 32), "orange").save(tmp_path / "cat.png")
    settings = {"image": str(tmp_path / "cat.png"), "pick": True, "steps": 4, "lora_steps": 0, "iterations": 1}
    where = {"model": str(tiny), "device": "cpu", "output": tmp_path / "out", "seed": 1, "format": "webp"}
    job = make_job("drag", {**settings, **where, "method": "dragdiffusion"})
    assert isinstance(job, DragJob)
    return job


def test_the_page_opens_with_the_picture_and_all_options_and_every_run_leaves_a_folder(
    job: DragJob, tmp_path: Path
) -> None:
    person = Person(run(), run(mask=True, iterations=2))
    report = page.pick(job, person)
    start = person.state["start"]
    assert (start["command"], start["pictures"], start["mask"]) == ("drag", ["picture"], "")
    assert {key: start["settings"][key] for key in ("method", "iterations", "seed")} == {
        "method": "dragdiffusion",
        "iterations": 1,
        "seed": 1,
    }
    assert [answer["status"] for answer in person.answers] == ["done", "done"]
    assert report.folder == tmp_path / "out" / "run-2"
    assert report.job["iterations"] == 2
    assert Path(report.job["mask"]).parent == tmp_path / "out" / "pictures"
    assert (tmp_path / "out" / "run-1" / "dragged.webp").is_file()
    assert "--format webp" in person.answers[0]["line"]


def test_saved_points_are_a_result_and_drag_by_their_file(job: DragJob, tmp_path: Path) -> None:
    report = page.pick(job, Person(save))
    assert report.folder == tmp_path / "out" / "points"
    saved = json.loads((report.folder / "points.json").read_text())
    assert saved == {"points": [{"handle": [8, 12], "target": [24, 12]}], "prompt": "a cat"}


def test_a_run_that_fails_is_told_on_the_page_leaves_no_folder_and_the_next_one_works(
    job: DragJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, faults = runs.run_job, [RuntimeError("boom"), OSError(5, "Input/output error", "/x/mask.png")]

    def sometimes(*given: Any) -> Any:
        if faults:
            raise faults.pop()
        return whole(*given)

    monkeypatch.setattr(runs, "run_job", sometimes)
    person = Person(run(), run(), run())
    report = page.pick(job, person)
    assert [answer["status"] for answer in person.answers] == ["failed", "failed", "done"]
    assert [bool(answer["error"]) for answer in person.answers] == [True, True, False]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [report.folder.name]


def test_two_pages_in_one_folder_take_different_names(job: DragJob, tmp_path: Path) -> None:
    common = {"model": job.model, "device": "cpu"}
    first, second = (runs.Session(tmp_path / "out", common, names="run-{number}") for _ in range(2))
    made = []
    for session in (first, second, first):
        session.pictures["picture"] = tmp_path / "cat.png"
        made.append(session.run("drag", POINT, ["picture"]).job.output)
        made.append(session.save_points(POINT, ["picture"]))
        made.append(session.pictures[session.add_picture((tmp_path / "cat.png").read_bytes())])
    assert [str(path.relative_to(tmp_path / "out")) for path in made] == [
        "run-1",
        "points",
        "pictures/picture-1.png",
        "run-2",
        "points-2",
        "pictures-2/picture-1.png",
        "run-3",
        "points",
        "pictures/picture-2.png",
    ]


def test_a_browser_that_stays_in_the_foreground_does_not_hold_up_the_page(
    job: DragJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, done = list[str](), threading.Event()

    def foreground(address: str) -> None:
        asked.append(address)
        done.wait(30)

    monkeypatch.setattr(browser.webbrowser, "open", foreground)
    page.pick(job, Person(save))
    done.set()
    assert "token=" not in asked[0]


def test_stopped_after_a_run_it_says_where_the_results_are(
    job: DragJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*given: Any, **named: Any) -> None:
        whole(*given, **named)
        raise KeyboardInterrupt

    whole = page.serve
    monkeypatch.setattr(page, "serve", interrupted)
    with pytest.raises(Stopped, match=str(tmp_path / "out")):
        page.pick(job, Person(save))


def test_finishing_without_any_run_is_no_success_and_leaves_nothing(job: DragJob, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="before anything was run"):
        page.pick(job, Person())
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_picked_in_is_said_before_the_page_opens(job: DragJob, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no picture to click in"):
        page.pick(make_job("drag", {"prompt": "a fox", "pick": True}), Silent())  # type: ignore[arg-type]
    (tmp_path / "notes.png").write_text("hello")
    with pytest.raises(InputError, match=r"notes\.png"):
        page.pick(job.model_copy(update={"image": str(tmp_path / "notes.png")}), Silent())
    Image.new("L", (31, 32), 255).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match="31x32"):
        page.pick(job.model_copy(update={"mask": tmp_path / "mask.png"}), Silent())


def test_without_the_extra_the_way_to_it_is_said(job: DragJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="starlette and uvicorn") as fault:
        page.pick(job, Silent())
    assert "smoothtool[ui]" in fault.value.hint


def test_a_batch_has_no_page(job: DragJob, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call_main(capsys, "drag", str(tmp_path / "cat.png"), "samples:fox", "--pick", "--dry-run")
    assert (code, out) == (2, "")
    assert "for one picture" in err


def test_python_has_no_page() -> None:
    with pytest.raises(UsageError, match="command line alone"):
        st.drag("samples:fox", pick=True)
