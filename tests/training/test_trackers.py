"""Trackers beside the log: what they are given, and what happens where they are not installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from smoothtool.errors import UsageError
from smoothtool.training import trackers
from smoothtool.training.trackers import check_tracker, open_tracker, track_step


def test_a_missing_tracker_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trackers.AVAILABLE, "wandb", lambda: False)
    with pytest.raises(UsageError, match=r"--tracker wandb needs wandb"):
        check_tracker("wandb")


def test_none_needs_nothing_and_opens_nothing(tmp_path: Path) -> None:
    check_tracker("none")
    assert open_tracker("none", tmp_path) is None
    assert not list(tmp_path.iterdir())


def test_bands_become_names_and_missing_figures_are_left_out() -> None:
    class Kept:
        def log(self, values: dict[str, float], step: int) -> None:
            self.values, self.step = values, step

    kept = Kept()
    record = {"step": 7, "base_loss": 0.5, "regulariser": None, "bands": {"0-249": {"n": 2.0, "samples": 3}}}
    track_step(kept, record)
    assert kept.step == 7
    assert kept.values == {"base_loss": 0.5, "n/0-249": 2.0, "samples/0-249": 3}


def test_tensorboard_finds_the_figures_in_the_output_folder(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra smoothtool[tensorboard] is not installed")
    tracker = open_tracker("tensorboard", tmp_path)
    track_step(tracker, {"step": 1, "base_loss": 0.5, "bands": {}})
    tracker.finish()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("base_loss")] == [(1, 0.5)]
