"""The page as a person sees it, in headless Chromium; needs a chromium on the path and the playwright package."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from smoothtool.cli.ui import listen
from smoothtool.ui.runs import Session
from smoothtool.weights.sample_pictures import SAMPLES

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="the browser test needs playwright")
uvicorn = pytest.importorskip("uvicorn")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="the browser test needs chromium")


PATIENCE_MS = 150_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """The page on the embedded model, as `smoothtool ui` serves it."""
    from smoothtool.ui.server import create_app

    with Session(tmp_path / "session", {"model": "stickers", "lora": ["none"]}) as session, listen(0) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(create_app(session, "secret", {host}), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://{host}/?token=secret"
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def tab(browser: Any, address: str) -> Iterator[Any]:
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


def until(tab: Any, expression: str, seconds: float = 60) -> None:
    """Wait until JavaScript finds it true; the page's policy forbids Playwright's own waiting."""
    deadline = time.monotonic() + seconds
    while not tab.evaluate(expression):
        assert time.monotonic() < deadline, expression
        time.sleep(0.05)


def done(tab: Any, number: int = 1) -> Any:
    card = tab.locator(f'article[data-run="{number}"]')
    card.locator("xpath=self::*[@data-status='done' or @data-status='failed']").wait_for(timeout=PATIENCE_MS)
    assert card.get_attribute("data-status") == "done", card.inner_text()
    return card


def fill(tab: Any, **values: str) -> None:
    for key, value in values.items():
        field = tab.locator(f"#field-{key}")
        if not field.is_visible():
            tab.locator("details", has=field).locator("summary").click()
        if field.evaluate("node => node.tagName") == "SELECT":
            field.select_option(value)
        else:
            field.fill(value)


def test_two_dropped_pictures_become_a_film(tab: Any) -> None:
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


def test_an_edit_by_two_ratios_stands_beside_its_source(tab: Any) -> None:
    tab.click("#tab-edit")
    tab.click("button[title='samples:fox']")
    fill(tab, src="a 3d fox", trg="a 3d cat", ratio="0.5\n1", steps="2", inversion="ddim")
    tab.click("#go")
    captions = done(tab).locator("figcaption").all_inner_texts()
    assert captions[0] == "source"
    assert len([caption for caption in captions if caption.startswith("edited")]) == 2


def test_a_point_is_clicked_a_mask_is_painted_and_the_picture_is_dragged(tab: Any) -> None:
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


def test_a_file_that_is_no_picture_is_named(tab: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    tab.set_input_files("#file", str(tmp_path / "notes.txt"))
    until(tab, "document.getElementById('problem').textContent.includes('notes.txt')")


def test_a_mistake_in_the_form_is_said_where_it_was_made(tab: Any) -> None:
    tab.click("button[title='samples:fox']")
    tab.click("#go")
    until(tab, "document.getElementById('problem').textContent.includes('two or more')")


def test_a_second_tab_sees_the_same_history(tab: Any) -> None:
    tab.click("#tab-edit")
    tab.click("button[title='samples:fox']")
    fill(tab, trg="a 3d cat", method="sdedit", steps="1")
    tab.click("#go")
    done(tab)
    other = tab.context.new_page()
    other.goto(tab.url)
    done(other)
    other.close()


def test_the_page_fits_a_phone(tab: Any) -> None:
    tab.set_viewport_size({"width": 360, "height": 700})
    assert tab.evaluate("document.documentElement.scrollWidth <= 360")


def test_everything_can_be_reached_by_keyboard(tab: Any) -> None:
    tab.click("#tab-edit")
    reached = set()
    for _ in range(80):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.id"))
    assert {"tab-interpolate", "tab-drag", "file", "go", "field-trg"} <= reached


def test_a_picture_of_another_shape_shows_whole(tab: Any, tmp_path: Path) -> None:
    Image.new("RGB", (300, 100), "teal").save(tmp_path / "wide.png")
    tab.click("#tab-drag")
    tab.set_input_files("#file", str(tmp_path / "wide.png"))
    until(tab, "document.getElementById('canvas').dataset.picture === '300x100'")
    assert tab.locator("#canvas").evaluate("c => c.clientWidth / c.clientHeight") == pytest.approx(3, rel=0.02)
