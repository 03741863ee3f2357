"""What the figures of `bench_edits.py` rest on: its tasks, and where a true edit counts as changed."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from bench_edits import CHANGES, changed_region, tasks

from smoothtool.stickers.world.scenes import scene_is_held_out


def test_every_source_scene_is_held_out_and_every_kind_has_its_share():
    drawn = list(tasks(60))
    assert all(scene_is_held_out(task.source) for task in drawn)
    assert {kind: sum(task.kind == kind for task in drawn) for kind in CHANGES} == dict.fromkeys(CHANGES, 15)


def test_adding_an_item_leaves_the_one_that_was_there():
    for task in list(tasks(60))[1::4]:
        assert task.target.items[:1] == task.source.items
        assert len(task.target.items) == 2


def test_the_changed_region_reaches_two_pixels_beyond_the_change():
    before = torch.zeros(1, 3, 16, 16)
    after = before.clone()
    after[0, 1, 8, 8] = 0.5
    region = changed_region(before, after)
    assert int(region.sum()) == 25
    assert region[0, 0, 6:11, 6:11].all()
