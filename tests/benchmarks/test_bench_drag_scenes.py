"""What the figures of `bench_drag_scenes.py` rest on: where the handle is, and where the item is found."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parent))
from bench_drag_scenes import Move, handle, locate, results

from smoothtool.stickers.world.icons import CONCEPTS
from smoothtool.stickers.world.scenes import Item, Scene, item_mask, render

SCENE = Scene("flat", "blue", (Item("donut", 26.0, 30.0, 28.0),))


@pytest.fixture
def icons(tmp_path: Path) -> Path:
    """A red ring for a donut."""
    ring = Image.new("RGBA", (64, 64))
    ImageDraw.Draw(ring).ellipse((2, 2, 61, 61), outline=(220, 60, 40, 255), width=14)
    (tmp_path / "flat").mkdir()
    ring.save(tmp_path / "flat" / f"{CONCEPTS['donut']}.png")
    return tmp_path


def test_the_handle_lies_on_the_item_even_where_its_middle_is_a_hole(icons: Path) -> None:
    mask = np.asarray(item_mask(SCENE, 0, icons))
    assert mask[30, 26] == 0
    x, y = handle(SCENE, icons)
    assert mask[y, x] > 127
    assert np.hypot(x - 26, y - 30) < 14


@pytest.mark.parametrize("way", [(0, 0), (12, -7)])
def test_an_item_is_found_where_it_was_drawn(icons: Path, way: tuple[int, int]) -> None:
    move = Move(SCENE, *way)
    assert locate(render(move.moved, icons), move, icons) == way


def test_a_second_run_reads_what_the_first_one_left(tmp_path: Path) -> None:
    (tmp_path / "scenes.jsonl").write_text('{"scene": 3, "method": "warp", "lora_steps": 0}\n{"scene": 4, "met')
    assert results(tmp_path) == [{"scene": 3, "method": "warp", "lora_steps": 0}]
