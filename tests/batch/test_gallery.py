"""The page of a batch: it needs nothing but itself, and what people wrote stays text."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from smoothtool.batch import gallery
from smoothtool.batch.gallery import THUMBNAILS, Card, write_gallery
from smoothtool.types import silent

HOSTILE = "\"><script>alert(1)</script>'&{{ 7*7 }}"


def card(**changes: Any) -> Card:
    return Card(
        **{
            "name": "fox",
            "status": "made",
            "link": "fox/",
            "before": None,
            "after": None,
            "settings": {},
            "every_setting": {},
            "metrics": {"psnr_db": 30.0},
            "notes": [],
            **changes,
        }
    )


def page_of(folder: Path, title: str, counts: dict[str, int], cards: list[Card]) -> str:
    write_gallery(folder / "index.html", title, counts, cards, silent)
    return (folder / "index.html").read_text("utf-8")


def test_whatever_people_wrote_is_escaped(tmp_path: Path) -> None:
    hostile = card(
        name=HOSTILE,
        link=f"{HOSTILE}/",
        settings={HOSTILE: [HOSTILE]},
        every_setting={"src": HOSTILE},
        metrics={HOSTILE: 1.0},
        notes=[HOSTILE],
    )
    page = page_of(tmp_path, HOSTILE, {"made": 1}, [hostile])
    assert page.count("<script>") == 1
    assert "alert(1)</script>" not in page
    assert "{{ 7*7 }}" in page


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    Image.new("RGB", (900, 300), "red").save(tmp_path / "x.png")
    page = page_of(tmp_path, "t", {"made": 1}, [card(before=tmp_path / "x.png", after=tmp_path / "x.png")])
    assert page.count('src="data:image/jpeg;base64,') == 2
    assert not re.findall(r"https?://|@import|url\(|<link|src=\"(?!data:)", page)
    assert "default-src 'none'" in page


def test_a_missing_or_broken_picture_leaves_its_place_empty(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no")
    assert "<img" not in page_of(tmp_path, "t", {}, [card(before=tmp_path / "broken.png", after=tmp_path / "none.png")])


def test_a_place_that_takes_no_thumbnails_leaves_the_page_without(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9), "red").save(tmp_path / "x.png")
    (tmp_path / THUMBNAILS).write_text("a file")
    assert "<img" not in page_of(tmp_path, "t", {"made": 1}, [card(after=tmp_path / "x.png")])


def test_failures_say_why(tmp_path: Path) -> None:
    page = page_of(tmp_path, "t", {"failed": 1}, [card(status="failed", link="", notes=["x.png: the file is empty"])])
    assert "x.png: the file is empty" in page
    assert '<article class="failed"' in page


def test_what_is_measured_can_be_sorted_by(tmp_path: Path) -> None:
    assert "<option>psnr_db</option>" in page_of(tmp_path, "t", {}, [card()])


def test_a_second_page_decodes_only_what_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (90, 30), "red").save(tmp_path / f"{name}.png")
    cards = [card(before=tmp_path / "a.png", after=tmp_path / "b.png"), card(before=tmp_path / "a.png")]
    first = page_of(tmp_path, "t", {}, cards)
    decoded, load = [], gallery.load_image
    monkeypatch.setattr(gallery, "load_image", lambda path, **how: decoded.append(path.name) or load(path, **how))
    assert (page_of(tmp_path, "t", {}, cards), decoded) == (first, [])
    Image.new("RGB", (91, 30), "blue").save(tmp_path / "b.png")
    assert page_of(tmp_path, "t", {}, cards) != first
    assert decoded == ["b.png"]


def test_a_picture_that_is_broken_since_shows_no_more(tmp_path: Path) -> None:
    Image.new("RGB", (90, 30), "red").save(tmp_path / "a.png")
    assert "<img" in page_of(tmp_path, "t", {}, [card(before=tmp_path / "a.png")])
    (tmp_path / "a.png").write_bytes(b"no")
    assert "<img" not in page_of(tmp_path, "t", {}, [card(before=tmp_path / "a.png")])
    assert not list((tmp_path / THUMBNAILS).iterdir())
