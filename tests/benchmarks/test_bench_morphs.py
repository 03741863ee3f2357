"""What the figures of `bench_morphs.py` rest on: its pairs, going on where it stopped, and what it prints."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
import bench_morphs
from bench_morphs import VARIANTS, differences, main, pairs

from smoothtool.files.storage.records import append_record
from smoothtool.stickers.world.scenes import scene_is_held_out


def test_both_scenes_of_every_pair_are_held_out_and_hold_one_item() -> None:
    for pair in pairs(24):
        assert all(scene_is_held_out(scene) and len(scene.items) == 1 for scene in pair.scenes)
        assert pair.scenes[0] != pair.scenes[1]
    assert list(pairs(24))[5] == list(pairs(6))[5]


def test_a_second_run_makes_what_is_missing_and_nothing_else(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SMOOTHTOOL_CACHE", str(tmp_path / "cache"))  # put back what the benchmark sets
    monkeypatch.setattr(bench_morphs, "render", lambda scene, icons: Image.effect_noise((32, 32), 50).convert("RGB"))
    arguments = [
        "--icons",
        "none",
        "--out",
        str(tmp_path / "morphs.jsonl"),
        "--model",
        str(tiny),
        "--steps",
        "4",
        "--pairs",
        "2",
        "--frames",
        "3",
        "--set",
        "inner_steps=1",
    ]
    main([*arguments, "--only", "vae"])
    kept = (tmp_path / "morphs.jsonl").read_bytes()
    assert kept.count(b"\n") == 2
    main([*arguments, "--only", "vae", "anid", "--shard", "0/2", "--beside", "vae inner_steps=1"])
    assert (tmp_path / "morphs.jsonl").read_bytes().startswith(kept)
    added = [(row["pair"], row["variant"]) for row in bench_morphs.results(tmp_path / "morphs.jsonl")[2:]]
    assert added == [(0, "anid inner_steps=1")]
    assert Image.open(tmp_path / "morphs-000.png").width > 4 * 128
    assert "| anid inner_steps=1 " in capsys.readouterr().out


def test_differences_are_taken_over_the_pairs_that_both_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for pair, (slerp, vae) in enumerate([(1.0, 3.0), (2.0, 5.0), (9.0, None)]):
        for variant, value in (("slerp", slerp), ("vae", vae)):
            append_record(tmp_path / "m.jsonl", {"pair": pair, "variant": variant, "ppl": value})
    main(["--icons", "none", "--out", str(tmp_path / "m.jsonl"), "--tables", "--beside", "slerp"])
    assert "vae  ppl  +2.5 (+2 to +3) over 2" in capsys.readouterr().out


def test_rescheduling_is_measured_beside_every_method_that_takes_new_ratios() -> None:
    assert "anid rescheduled" not in VARIANTS
    assert {"slerp", "slerp rescheduled", "diffmorpher rescheduled", "anid"} <= set(VARIANTS)


def test_variants_without_common_pairs_have_no_difference() -> None:
    assert (
        differences([{"pair": 0, "variant": "vae", "ppl": 1.0}, {"pair": 1, "variant": "slerp", "ppl": 2.0}], "slerp")
        == []
    )
