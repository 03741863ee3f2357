"""What the figures of `bench_edits.py` rest on: its tasks, and where a true edit counts as changed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from bench_edits import CHANGES, changed_region, is_wanted, main, tasks
from edit_results import winner, winner_lines

from smoothtool.files.storage.records import append_record
from smoothtool.jobs import kind_of_edit
from smoothtool.stickers.world.scenes import caption, scene_is_held_out


def test_every_source_scene_is_held_out_and_every_kind_has_its_share() -> None:
    drawn = list(tasks(60))
    assert all(scene_is_held_out(task.source) for task in drawn)
    assert {kind: sum(task.kind == kind for task in drawn) for kind in CHANGES} == dict.fromkeys(CHANGES, 15)


def test_adding_an_item_leaves_the_one_that_was_there() -> None:
    for task in list(tasks(60))[1::4]:
        assert task.target.items[:1] == task.source.items
        assert len(task.target.items) == 2


def test_the_changed_region_reaches_two_pixels_beyond_the_change() -> None:
    before = torch.zeros(1, 3, 16, 16)
    after = before.clone()
    after[0, 1, 8, 8] = 0.5
    region = changed_region(before, after)
    assert int(region.sum()) == 25
    assert region[0, 0, 6:11, 6:11].all()


def test_the_prompts_of_every_scene_are_read_as_its_kind_of_edit() -> None:
    for task in tasks(60):
        assert kind_of_edit(caption(task.source), caption(task.target)) == task.kind


def test_halves_and_shards_share_out_the_scenes_with_every_kind_in_each() -> None:
    places = [(half, f"{shard}/2") for half in ("find", "report") for shard in (0, 1)]
    for index in range(64):
        assert sum(is_wanted(index, *place) for place in places) == 1
    for place in places:
        kinds = [index % 4 for index in range(64) if is_wanted(index, *place)]
        assert {kind: kinds.count(kind) for kind in range(4)} == dict.fromkeys(range(4), 4)


def result(method: str, truth: float, score: float, kind: str = "add", settings: str = "") -> dict[str, object]:
    return {
        "task": 1,
        "kind": kind,
        "method": method,
        "inversion": "none",
        "settings": settings,
        "truth_psnr_db": truth,
        "inside_to_truth_psnr_db": truth - 2,
        "outside_psnr_db": 20.0,
        "clip_score": score,
    }


RESULTS = [result("no edit", 18, 40), result("true edit", 30, 60), result("p2p", 17, 49), result("pnp", 15, 52),
           result("cycle", 16, 55), result("cycle", 16.5, 55, settings="guidance=3")]  # fmt: skip


def test_the_winner_is_nearest_to_the_truth_of_those_that_carried_the_edit_out() -> None:
    assert winner(RESULTS) == ("cycle", "none", "guidance=3")
    assert winner(RESULTS, lambda variant: variant[0] == "pnp") == ("pnp", "none", "")
    assert winner(RESULTS[2:]) is None


def test_winners_are_printed_as_the_table_of_auto_has_them() -> None:
    from smoothtool.jobs import edit_choice

    lines = winner_lines(RESULTS, ["replace", "add"])
    table = eval("{" + "".join(lines) + "}", vars(edit_choice))
    assert list(table) == [edit_choice.ADD, edit_choice.ANY, edit_choice.NO_SOURCE]
    assert table[edit_choice.ADD] == edit_choice.Winner("cycle", "none", 1, 14.5, 20.0, {"guidance": "3"})


def test_results_in_a_file_are_read_into_tables_and_winners(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for row in RESULTS:
        append_record(tmp_path / "edits.jsonl", row)
    out = str(tmp_path / "edits.jsonl")
    main(["--icons", "none", "--out", out, "--tables", "--winners", "--beside", "cycle/none", "--against", out])
    printed = capsys.readouterr().out
    assert '    ADD: Winner("cycle", "none", 1, 14.5, 20.0,' in printed
    assert printed.count("| p2p ") == 2  # over all scenes, and of its kind
