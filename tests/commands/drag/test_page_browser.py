"""The page as a person sees it, in headless Chromium; needs a chromium on the path and the playwright package."""

from __future__ import annotations

import shutil
import threading

import pytest
from PIL import Image

from smoothtool.commands.drag.page.server import PointPage
from smoothtool.files.lists.points import load_mask

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
playwright = pytest.importorskip("playwright.sync_api", reason="the browser test needs playwright")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="the browser test needs chromium")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def served():
    """A page whose runs answer with a blue picture, and what was asked of it."""
    asked = []
    with PointPage(Image.new("RGB", (60, 40), "orange")) as page:

        def answer():
            for request in page.requests():
                asked.append(request)
                page.show(Image.new("RGB", (60, 40), "blue"))

        threading.Thread(target=answer, daemon=True).start()
        yield page, asked
        page.queue.put(None)


def test_a_person_clicks_paints_runs_and_sees_the_result(browser, served, tmp_path):
    page, asked = served
    tab = browser.new_page(viewport={"width": 1200, "height": 800})
    complaints = []
    tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(page.url)
    tab.locator("#picture").evaluate("picture => picture.decode()")
    box = tab.locator("#stage").bounding_box()
    assert box["width"] / box["height"] == pytest.approx(60 / 40, rel=0.01)  # not squeezed

    def at(x, y):
        return box["x"] + (x + 0.5) / 60 * box["width"], box["y"] + (y + 0.5) / 40 * box["height"]

    assert tab.locator("#run").is_disabled()
    assert not tab.locator("#result").is_visible()
    tab.mouse.click(*at(10, 20))
    assert tab.locator("#run").is_disabled()  # a handle without a target
    tab.mouse.click(*at(45, 12))
    tab.click("#paint")
    tab.mouse.move(*at(30, 20))
    tab.mouse.down()
    tab.mouse.move(*at(40, 20), steps=4)
    tab.mouse.up()
    tab.click("#run")
    tab.locator("#result").wait_for(state="visible")
    assert tab.locator("#result").evaluate("result => result.decode().then(() => result.naturalWidth)") == 60
    [request] = asked
    assert (request.points.handles_xy_px, request.points.targets_xy_px) == (((10, 20),), ((45, 12),))
    (tmp_path / "mask.png").write_bytes(request.mask_png)
    mask = load_mask(tmp_path / "mask.png", (60, 40), fit=False)
    assert mask[20, 30:40].all()
    assert not mask[5].any()
    assert not mask[:, 50:].any()
    assert complaints == []
    tab.close()


def test_undo_takes_back_a_target_then_its_handle_and_clear_takes_the_mask(browser, served):
    page, asked = served
    tab = browser.new_page()
    tab.goto(page.url)
    tab.locator("#picture").evaluate("picture => picture.decode()")
    stage = tab.locator("#stage")
    for x in (40, 120):
        stage.click(position={"x": x, "y": 50})
    tab.click("#undo")
    assert tab.locator("#run").is_disabled()
    tab.click("#undo")
    assert tab.locator("#marks circle").count() == 0
    tab.click("#paint")
    stage.click(position={"x": 80, "y": 50})
    tab.click("#clear")
    tab.click("#points")
    for x in (40, 120):
        stage.click(position={"x": x, "y": 50})
    tab.click("#save")
    tab.get_by_text("done", exact=True).wait_for()
    assert (asked[0].action, asked[0].mask_png) == ("save", None)
    tab.close()
