"""`drag --pick`, with a person who is a thread: run, save, finish."""

from __future__ import annotations

import base64
import json
import threading
import urllib.request
from io import BytesIO

import pytest
from PIL import Image

from smoothtool.commands.drag import pick
from smoothtool.commands.drag import picture as drag_picture
from smoothtool.commands.drag import run as drag
from smoothtool.commands.shared import browser
from smoothtool.commands.shared.session import open_session
from smoothtool.errors import Stopped, UsageError
from smoothtool.jobs import make_job
from smoothtool.types import Silent


class Person(Silent):
    """Presses buttons as soon as the address is told, each when the one before has been answered."""

    def __init__(self, *presses):
        self.presses, self.states = presses, []

    def tell(self, text):
        if text.startswith("open "):
            threading.Thread(target=self.press_all, args=(text[5:],), daemon=True).start()

    def press_all(self, url):
        for action, body in self.presses:
            self.ask(url, action, json.dumps(body).encode())
            while (state := self.ask(url, "state"))["busy"]:
                pass
            self.states.append(state)
        self.ask(url, "finish", b"")

    def ask(self, url, action, body=None):
        with urllib.request.urlopen(url.replace("/?", f"/{action}?"), body, timeout=10) as answer:
            return json.load(answer)


@pytest.fixture
def loads():
    return []


@pytest.fixture
def job(model, loads, monkeypatch, tmp_path):
    def load():
        loads.append(1)
        return model

    monkeypatch.setattr(drag_picture, "open_session", lambda job, track, pool: pool.open(job, load))
    monkeypatch.setattr(browser.webbrowser, "open", lambda url: True)
    Image.new("RGB", (32, 32), "orange").save(tmp_path / "cat.png")
    settings = {"image": str(tmp_path / "cat.png"), "pick": True, "steps": 4, "lora_steps": 0, "iterations": 1}
    return make_job("drag", {**settings, "method": "dragdiffusion", "output": tmp_path / "out", "seed": 1})


def painted() -> str:
    buffer = BytesIO()
    Image.new("L", (32, 32), 255).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


FAULTS = [OSError(5, "Input/output error", "/x/mask.png"), RuntimeError("boom"), MemoryError(), UsageError("no", "yes")]
BODY = {"points": [{"handle": [8, 12], "target": [24, 12]}], "mask": None}


def test_every_run_leaves_a_folder_and_its_result_on_the_page_and_the_model_is_loaded_once(job, loads, tmp_path):
    person = Person(("run", BODY), ("run", {**BODY, "mask": painted()}), ("save", BODY))
    report = drag.run(job, person)
    assert report.folder == tmp_path / "out" / "run-2"
    assert loads == [1]
    assert [state["results"] for state in person.states] == [1, 2, 2]
    assert "saved in" in person.states[-1]["text"]
    assert (tmp_path / "out" / "run-1" / "dragged.png").is_file()
    assert report.job["mask"].endswith("mask-2.png")
    assert json.loads((tmp_path / "out" / "points.json").read_text())["points"][0]["target"] == [24, 12]


def test_stable_diffusion_xl_is_dragged_on_the_page_too(job, tiny_xl, tmp_path, monkeypatch):
    monkeypatch.setattr(drag_picture, "open_session", open_session)
    person = Person(("run", {**BODY, "mask": painted()}))
    report = drag.run(job.model_copy(update={"model": str(tiny_xl), "device": "cpu", "lora_steps": 1}), person)
    assert person.states[0]["results"] == 1
    assert report.model["name"] == str(tiny_xl)
    assert Image.open(tmp_path / "out" / "run-1" / "dragged.png").size == (32, 32)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_that_fails_in_any_way_is_told_on_the_page_and_the_next_one_works(job, monkeypatch, fault):
    whole, faults = pick.drag_picture, [fault]

    def sometimes(*arguments):
        if faults:
            raise faults.pop()
        return whole(*arguments)

    monkeypatch.setattr(pick, "drag_picture", sometimes)
    person = Person(("run", BODY), ("run", BODY))
    drag.run(job, person)
    assert person.states[0]["error"]
    assert person.states[1]["results"] == 1


def test_a_browser_that_stays_in_the_foreground_does_not_hold_up_the_page(job, monkeypatch):
    asked, done = [], threading.Event()

    def foreground(address):
        asked.append(address)
        done.wait(30)

    monkeypatch.setattr(browser.webbrowser, "open", foreground)
    drag.run(job, Person(("save", BODY)))
    done.set()
    assert "token=" not in asked[0]


def test_stopped_after_a_run_it_says_where_the_results_are(job, tmp_path, monkeypatch):
    def interrupted(self):
        yield from whole(self)
        raise KeyboardInterrupt

    whole = pick.PointPage.requests
    monkeypatch.setattr(pick.PointPage, "requests", interrupted)
    with pytest.raises(Stopped, match=str(tmp_path / "out")):
        drag.run(job, Person(("save", BODY)))


def test_finishing_without_any_run_is_no_success(job):
    with pytest.raises(UsageError, match="before anything was run"):
        drag.run(job, Person())


def test_picking_without_a_picture_is_refused():
    with pytest.raises(UsageError, match="no picture to click in"):
        drag.run(make_job("drag", {"prompt": "a fox", "pick": True}), Silent())
