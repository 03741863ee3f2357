"""The page as a person sees it, in headless Chromium; needs a chromium on the path and the playwright package."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from smoothtool.cli.page import listen, serve
from smoothtool.files.lists.points import load_mask
from smoothtool.ui.runs import Session, Start
from smoothtool.weights.sample_pictures import SAMPLES

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Locator, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="the browser test needs playwright")
uvicorn = pytest.importorskip("uvicorn")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="the browser test needs chromium")


PATIENCE_MS = 150_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@contextmanager
def served(session: Session) -> Iterator[str]:
    """The address of the page on that session, as `smoothtool ui` serves it."""
    told: list[str] = []
    with session, listen(0) as listener:
        thread = threading.Thread(target=serve, args=(session, listener, told.append), kwargs={"browser": False})
        thread.start()
        deadline = time.monotonic() + 20
        while not told and time.monotonic() < deadline:
            time.sleep(0.01)
        yield told[0]
        session.finished.set()
        thread.join(20)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """The page on the embedded model."""
    with served(Session(tmp_path / "session", {"model": "stickers", "lora": ["none"]})) as address:
        yield address


@pytest.fixture
def tab(browser: Browser, address: str) -> Iterator[Page]:
    """A page without a single complaint on the console."""
    context, complaints = browser.new_context(viewport={"width": 1200, "height": 900}), []
    tab = context.new_page()
    tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(address)
    tab.wait_for_selector("#go")
    yield tab
    context.close()
    assert [text for text in complaints if "400" not in text] == []


def until(tab: Page, expression: str, seconds: float = 60) -> None:
    """Wait until JavaScript finds it true; the page's policy forbids Playwright's own waiting."""
    deadline = time.monotonic() + seconds
    while not tab.evaluate(expression):
        assert time.monotonic() < deadline, expression
        time.sleep(0.05)


def done(tab: Page, number: int = 1) -> Locator:
    card = tab.locator(f'article[data-run="{number}"]')
    card.locator("xpath=self::*[@data-status='done' or @data-status='failed']").wait_for(timeout=PATIENCE_MS)
    assert card.get_attribute("data-status") == "done", card.inner_text()
    return card


def fill(tab: Page, **values: str) -> None:
    for key, value in values.items():
        field = tab.locator(f"#field-{key}")
        if not field.is_visible():
            tab.locator("details", has=field).locator("summary").click()
        if field.evaluate("node => node.tagName") == "SELECT":
            field.select_option(value)
        else:
            field.fill(value)


def test_two_dropped_pictures_become_a_film(tab: Page) -> None:
    tab.set_input_files("#file", [str(SAMPLES / "fox.png"), str(SAMPLES / "cat.png")])
    until(tab, "document.querySelectorAll('#tray button[aria-pressed=true]').length === 2")
    fill(tab, frames="2", steps="2", inversion="ddim")
    tab.click("#go")
    card = done(tab)
    assert (
        card.locator("video").evaluate(
            "film => new Promise(r => { film.oncanplay = () => r(film.videoWidth); film.load() })"
        )
        > 0
    )
    assert "smoothtool interpolate" in card.locator("code").inner_text()
    assert "token" not in tab.url


def test_an_edit_by_two_ratios_stands_beside_its_source(tab: Page) -> None:
    tab.click("#tab-edit")
    tab.click("button[title='samples:fox']")
    fill(tab, src="a 3d fox", trg="a 3d cat", ratio="0.5\n1", steps="2", inversion="ddim")
    tab.click("#go")
    captions = done(tab).locator("figcaption").all_inner_texts()
    assert captions[0] == "source"
    assert len([caption for caption in captions if caption.startswith("edited")]) == 2


def test_a_point_is_clicked_a_mask_is_painted_and_the_picture_is_dragged(tab: Page) -> None:
    tab.click("#tab-drag")
    tab.click("button[title='samples:apple']")
    canvas = tab.locator("#canvas")
    until(tab, "document.getElementById('canvas').dataset.picture === '64x64'")
    box = canvas.bounding_box()
    for x, y in ((32, 32), (40, 32)):
        canvas.click(position={"x": (x + 0.5) * box["width"] / 64, "y": (y + 0.5) * box["height"] / 64})
    assert tab.locator("#field-point").input_value() == "32,32:40,32"
    tab.check("input[value=mask]")
    canvas.click(position={"x": box["width"] / 2, "y": box["height"] / 2})
    fill(tab, method="fastdrag", steps="4")
    tab.click("#go")
    assert "dragged.png" in done(tab).locator("figcaption").all_inner_texts()


def test_a_file_that_is_no_picture_is_named(tab: Page, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    tab.set_input_files("#file", str(tmp_path / "notes.txt"))
    until(tab, "document.getElementById('problem').textContent.includes('notes.txt')")


def test_a_mistake_in_the_form_is_said_where_it_was_made(tab: Page) -> None:
    tab.click("button[title='samples:fox']")
    tab.click("#go")
    until(tab, "document.getElementById('problem').textContent.includes('two or more')")


def test_only_pick_has_a_finish_and_places_say_what_will_stand_there(tab: Page) -> None:
    assert not tab.locator("#finish").is_visible()
    assert not tab.locator("#stage").is_visible()
    assert tab.evaluate("getComputedStyle(document.getElementById('results'), '::before').content") != "none"


def test_a_second_tab_sees_the_same_history(tab: Page) -> None:
    tab.click("#tab-edit")
    tab.click("button[title='samples:fox']")
    fill(tab, trg="a 3d cat", method="sdedit", steps="1")
    tab.click("#go")
    done(tab)
    other = tab.context.new_page()
    other.goto(tab.url)
    done(other)
    other.close()


def test_the_page_fits_a_phone(tab: Page) -> None:
    tab.set_viewport_size({"width": 360, "height": 700})
    assert tab.evaluate("document.documentElement.scrollWidth <= 360")


def test_everything_can_be_reached_by_keyboard(tab: Page) -> None:
    tab.click("#tab-edit")
    reached = set()
    for _ in range(80):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.id"))
    assert {"tab-interpolate", "tab-drag", "file", "go", "field-trg"} <= reached


def test_a_picture_of_another_shape_shows_whole(tab: Page, tmp_path: Path) -> None:
    Image.new("RGB", (300, 100), "teal").save(tmp_path / "wide.png")
    tab.click("#tab-drag")
    tab.set_input_files("#file", str(tmp_path / "wide.png"))
    until(tab, "document.getElementById('canvas').dataset.picture === '300x100'")
    assert tab.locator("#canvas").evaluate("c => c.clientWidth / c.clientHeight") == pytest.approx(3, rel=0.02)


def test_the_page_of_pick_shows_what_was_given_and_ends_with_finish(browser: Browser, tmp_path: Path) -> None:
    Image.new("RGB", (60, 40), "orange").save(tmp_path / "cat.png")
    mask = Image.new("L", (60, 40), 0)
    mask.paste(255, (0, 0, 30, 40))
    mask.save(tmp_path / "mask.png")
    session = Session(tmp_path / "out", {"model": "stickers", "lora": ["none"]}, names="run-{number}")
    session.pictures |= {"picture": tmp_path / "cat.png", "mask": tmp_path / "mask.png"}
    session.start = Start("drag", ["picture"], "mask", {"method": "fastdrag", "steps": 4, "point": ["5,20:15,20"]})
    with served(session) as address:
        tab = browser.new_page(viewport={"width": 1200, "height": 900})
        tab.goto(address)
        until(tab, "state.mask !== null && state.points.length === 2")
        assert tab.locator("#tab-drag").get_attribute("aria-selected") == "true"
        assert (tab.locator("#field-method").input_value(), tab.locator("#field-steps").input_value()) == (
            "fastdrag",
            "4",
        )
        canvas = tab.locator("#canvas")
        box = canvas.bounding_box()
        assert box["width"] / box["height"] == pytest.approx(60 / 40, rel=0.02)  # not squeezed

        def at(x: float, y: float) -> tuple[float, float]:
            return box["x"] + (x + 0.5) / 60 * box["width"], box["y"] + (y + 0.5) / 40 * box["height"]

        for x, y in ((10, 10), (20, 10)):
            tab.mouse.click(*at(x, y))
        assert tab.locator("#field-point").input_value() == "5,20:15,20\n10,10:20,10"
        tab.click("#undo")
        assert tab.locator("#field-point").input_value() == "5,20:15,20"
        tab.check("input[value=erase]")
        tab.mouse.move(*at(15, 0))
        tab.mouse.down()
        tab.mouse.move(*at(15, 39), steps=4)
        tab.mouse.up()
        tab.click("#save")
        until(tab, "document.getElementById('saved').textContent.includes('points')")
        kept = load_mask(tmp_path / "out" / "points" / "mask.png", (60, 40), fit=False)
        assert kept[20, 3]
        assert not kept[20, 15]
        assert not kept[20, 45]
        tab.check("input[value=mask]")
        tab.mouse.move(*at(45, 20))
        tab.mouse.down()
        tab.mouse.up()
        tab.click("#go")
        assert "dragged.png" in done(tab).locator("figcaption").all_inner_texts()
        assert (tmp_path / "out" / "run-1" / "dragged.png").is_file()
        tab.click("#finish")
        assert session.finished.wait(10)
        tab.close()
