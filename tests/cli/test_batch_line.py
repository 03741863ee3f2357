"""Batches from the command line: what is printed where, the exit code, and the recipes that come along."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from batch_toys import fake_invert, pictures, toy_model
from cli_toys import call_main

from smoothtool.cli import console


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in tmp_path with `invert` replaced; returns (exit code, stdout, stderr)."""
    monkeypatch.setattr(console, "show", console.Show())
    monkeypatch.setitem(sys.modules, "smoothtool.commands.invert.run", fake_invert(tmp_path / "log"))
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "in", 3)
    toy_model(tmp_path / "model")

    def go(*arguments: str) -> tuple[int, str, str]:
        return call_main(capsys, *arguments)

    return go


def test_stdout_is_one_folder_per_result_and_the_table_goes_to_stderr(
    call: Callable[..., tuple[int, str, str]],
) -> None:
    code, out, err = call("invert", "in", "-m", "model", "-o", "out")
    assert (code, out) == (0, "out/p0\nout/p1\nout/p2\n")
    assert "3 made" in err
    assert "index.html" in err


def test_a_failed_item_is_named_and_the_exit_code_is_3(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    (tmp_path / "in" / "p1.png").write_bytes(b"")
    code, out, err = call("invert", "in/p0.png", "in/p1.png", "-m", "model", "-o", "out")
    assert (code, out) == (3, "out/p0\n")
    assert "p1: in/p1.png: the file is empty" in err
    assert "--retry-failed" in err


def test_json_is_the_whole_batch(call: Callable[..., tuple[int, str, str]]) -> None:
    code, out, _ = call("invert", "in", "-m", "model", "-o", "out", "--json")
    assert (code, json.loads(out)["counts"]) == (0, {"made": 3})


def test_a_share_is_asked_for_by_flag_or_by_the_launcher(
    call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("invert", "in", "-m", "model", "-o", "out", "--shard", "1/3")[1] == "out/p0\n"
    monkeypatch.setenv("SLURM_PROCID", "2")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "3")
    assert call("invert", "in", "-m", "model", "-o", "out")[1] == "out/p0\nout/p2\n"
    assert call("invert", "in", "-m", "model", "-o", "out", "--shard", "4/3")[0] == 2


def test_one_picture_is_divided_too_by_flag_or_launcher(
    call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one = ("invert", "in/p1.png", "-m", "model", "-o", "out")
    code, out, err = call(*one, "--shard", "2/2")
    assert (code, out, "shard 2/2 holds no item" in err) == (0, "", True)
    assert call(*one, "--shard", "1/2")[:2] == (0, "out/p1\n")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert call(*one)[:2] == (0, "out/p1\n")
    assert (tmp_path / "log").read_text().count("p1.png") == 1


def test_one_picture_that_failed_is_tried_again_when_asked(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    good = (tmp_path / "in" / "p1.png").read_bytes()
    (tmp_path / "in" / "p1.png").write_bytes(b"")
    one = ("invert", "in/p1.png", "-m", "model", "-o", "out", "--retry-failed")
    assert call(*one)[0] == 3
    (tmp_path / "in" / "p1.png").write_bytes(good)
    assert call(*one)[:2] == (0, "out/p1\n")


def test_a_recipe_of_one_job_goes_to_the_engine_that_was_asked_for(
    call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "r.yaml").write_text("jobs: [{command: invert, image: in/p0.png, model: model}]")
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "smoothtool.batch.ray_engine", raising=False)
    code, _, err = call("run", "r.yaml", "--engine", "ray")
    assert (code, "Ray is not installed" in err) == (2, True)
    assert call("run", "r.yaml", "--workers", "2")[0] == 2


def test_trainings_in_a_batch_do_not_wait_for_each_other_for_ever(
    call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    (tmp_path / "r.yaml").write_text("jobs: [{command: train, data: in, model: model, matrix: {rank: [1, 2]}}]")
    code, _, err = call("run", "r.yaml", "output=out")
    assert (code, "runs in one process" in err) == (2, True)
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_is_a_usage_error(call: Callable[..., tuple[int, str, str]], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, _, err = call("invert", "empty")
    assert code == 2
    assert "IMAGE empty: there is no picture" in err


def test_a_dry_run_tells_counts_and_calls_and_makes_nothing(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, out, err = call("invert", "in", "--inversion", "ddim", "--steps", "10", "-o", "out", "--dry-run", "-g", "2")
    assert code == 0
    memory = r"about \S+ GB of memory on a GPU \(float16\) or \S+ GB on a CPU \(float32\)"
    assert re.fullmatch(rf"3 invert: about 90 UNet calls, {memory}, into out\n", err)
    assert out.count("command: invert") == 3
    assert not (tmp_path / "out").exists()


def test_shipped_recipes_are_listed_run_by_name_and_copied_with_their_table(
    call: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    assert "drag-list" in call("recipe", "ls")[1]
    assert call("recipe", "validate", "drag-list")[0] == 0
    assert call("recipe", "cp", "drag-list")[1] == "drag-list.yaml\ndrags.jsonl\n"
    assert (tmp_path / "drags.jsonl").is_file()
    assert call("recipe", "cp", "drag-list")[0] == 2  # it is there already
    assert call("recipe", "cp", "drag-list", "none/x.yaml")[0] == 2
    code, _, err = call("recipe", "cp", "drag-lst")
    assert code == 2
    assert "drag-list" in err


def test_a_long_batch_does_not_fill_the_screen_with_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    from io import StringIO

    from rich.console import Console

    screen = Console(file=StringIO(), force_terminal=True, width=80)
    monkeypatch.setattr(console, "show", console.Show())
    monkeypatch.setattr(console, "stderr", screen)
    with console.Progress() as progress:
        for _ in progress(range(30), "items", 30):
            list(progress(range(2), "inverting", 2))
        assert progress.bars is not None
        assert len(progress.bars.tasks) <= console.KEPT_BARS + 2
