from __future__ import annotations

import multiprocessing
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from smoothtool.stickers.making.captured_training import train_captured
from smoothtool.stickers.making.shared_training import Batch, Plan, Station, share, train_shared

PLAN = Plan(first=1, last=6, rate=0.02, batch=8, warmup=2, save_every=3)


@pytest.fixture(autouse=True)
def settings_of_torch_are_restored() -> Iterator[None]:
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    yield
    torch.set_num_threads(threads)
    torch.set_flush_denormal(False)
    torch.set_float32_matmul_precision(precision)


@pytest.fixture
def found_by_new_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """They import this file by its module's name, and pytest puts it on no path."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(Path(__file__).parents[3])])


def station() -> Station:
    def batch_of(step: int | None) -> Batch:
        inputs = torch.randn((8, 5), generator=None if step is None else torch.Generator().manual_seed(step))
        return {"inputs": inputs, "velocity": inputs[:, :, None, None], "timesteps": torch.arange(8) * 124}

    def prediction_of(model: nn.Module, rows: Batch) -> torch.Tensor:
        return model(rows["inputs"])[:, :, None, None]

    return batch_of, prediction_of


def station_that_fails_elsewhere() -> Station:
    if multiprocessing.parent_process() is not None:
        raise SystemExit(3)
    return station()


def trained(path: Path, plan: Plan) -> dict[str, Any]:
    torch.manual_seed(0)
    saved = torch.load(path, weights_only=True) if path.exists() else None
    train_shared(share(nn.Sequential(nn.Linear(5, 5)), saved, plan), plan, path, station)
    return torch.load(path, weights_only=True)


def test_the_rate_rises_and_stays_and_falls_in_a_branch_only() -> None:
    assert [Plan(1, 9, 1.0, 8, warmup=2).rate_at(step) for step in (1, 2, 9)] == [0.5, 1.0, 1.0]
    falling = [Plan(5, 8, 1.0, 8, decay=True).rate_at(step) for step in range(5, 9)]
    assert falling[0] == 1.0
    assert falling == sorted(falling, reverse=True)
    assert 0 < falling[-1] < 0.2


def test_training_that_was_stopped_equals_training_that_was_not(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole.pt", PLAN)
    trained(tmp_path / "parts.pt", replace(PLAN, last=3))
    parts = trained(tmp_path / "parts.pt", replace(PLAN, first=4))
    for kind in ("model", "averaged", "first"):
        torch.testing.assert_close(whole[kind], parts[kind], rtol=0, atol=0)


@pytest.mark.usefixtures("found_by_new_processes")
def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    one, two = (trained(tmp_path / f"{n}.pt", replace(PLAN, workers=n)) for n in (1, 2))
    torch.testing.assert_close(one["model"], two["model"], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("found_by_new_processes")
def test_a_process_that_dies_ends_the_training_of_all(tmp_path: Path) -> None:
    model, plan = nn.Sequential(nn.Linear(5, 5)), replace(PLAN, workers=2)
    with pytest.raises(threading.BrokenBarrierError):
        train_shared(share(model, None, plan), plan, tmp_path / "x.pt", station_that_fails_elsewhere)
    assert not (tmp_path / "x.pt").exists()


def test_frozen_parameters_stay(tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = nn.Sequential(nn.Linear(5, 5)).state_dict()["0.bias"]
    saved = trained(tmp_path / "x.pt", replace(PLAN, frozen="0.bias", frozen_from=0))
    assert torch.equal(saved["model"]["0.bias"], start)
    assert not torch.equal(saved["model"]["0.weight"], torch.zeros(5, 5))


def test_the_step_of_a_gpu_learns_as_the_processes_do(tmp_path: Path) -> None:
    plan, ends = replace(PLAN, last=150), []
    for train in (train_shared, train_captured):
        torch.manual_seed(0)
        shared = share(nn.Sequential(nn.Linear(5, 5)), None, plan)
        train(shared, plan, tmp_path / "x.pt", station)
        saved = torch.load(tmp_path / "x.pt", weights_only=True)
        assert saved["step"] == 150
        ends.append(float(torch.dist(saved["model"]["0.weight"], torch.eye(5))))
        assert torch.dist(saved["averaged"]["0.weight"], saved["model"]["0.weight"]) > 0
    assert ends[1] == pytest.approx(ends[0], abs=0.1)
    assert ends[1] < 0.2 * float(torch.dist(_first_weight(), torch.eye(5)))


def _first_weight() -> torch.Tensor:
    torch.manual_seed(0)
    return nn.Linear(5, 5).weight.detach()


def test_training_stops_when_its_time_is_over(tmp_path: Path) -> None:
    assert trained(tmp_path / "x.pt", replace(PLAN, minutes=0.0))["step"] == 1
