"""The page of a batch: it needs nothing but itself, and what people wrote stays text."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

from smoothtool.files.gallery import Card, gallery_page

HOSTILE = "\"><script>alert(1)</script>'&{{ 7*7 }}"


def card(**changes) -> Card:
    return Card(**{"name": "fox", "status": "made", "link": "fox/", "before": None, "after": None, "settings": {},
                   "every_setting": {}, "metrics": {"psnr_db": 30.0}, "notes": [], **changes})  # fmt: skip


def test_whatever_people_wrote_is_escaped() -> None:
    hostile = card(name=HOSTILE, link=f"{HOSTILE}/", settings={HOSTILE: [HOSTILE]}, every_setting={"src": HOSTILE},
                   metrics={HOSTILE: 1.0}, notes=[HOSTILE])  # fmt: skip
    page = gallery_page(HOSTILE, {"made": 1}, [hostile])
    assert page.count("<script>") == 1
    assert "alert(1)</script>" not in page
    assert "{{ 7*7 }}" in page


def test_nothing_is_loaded_from_elsewhere(tmp_path: Path) -> None:
    Image.new("RGB", (900, 300), "red").save(tmp_path / "x.png")
    page = gallery_page("t", {"made": 1}, [card(before=tmp_path / "x.png", after=tmp_path / "x.png")])
    assert page.count('src="data:image/jpeg;base64,') == 2
    assert not re.findall(r"https?://|@import|url\(|<link|src=\"(?!data:)", page)
    assert "default-src 'none'" in page


def test_a_missing_or_broken_picture_leaves_its_place_empty(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no")
    assert "<img" not in gallery_page("t", {}, [card(before=tmp_path / "broken.png", after=tmp_path / "none.png")])


def test_failures_say_why() -> None:
    page = gallery_page("t", {"failed": 1}, [card(status="failed", link="", notes=["x.png: the file is empty"])])
    assert "x.png: the file is empty" in page
    assert '<article class="failed"' in page


def test_what_is_measured_can_be_sorted_by() -> None:
    assert "<option>psnr_db</option>" in gallery_page("t", {}, [card()])
