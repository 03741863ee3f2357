"""`--engine` and `--workers` of `smoothtool run`: what is refused before anything is done."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from batch_toys import pictures, toy_model

from smoothtool.cli.launch import RunOptions, launch
from smoothtool.errors import UsageError
from smoothtool.recipe.plan import Plan, plan_flags


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    model = toy_model(tmp_path / "model")
    return plan_flags(
        "invert", {"image": [str(pictures(tmp_path / "in", 2))], "model": model, "output": tmp_path / "out"}
    )


def test_without_the_extra_it_is_said_what_to_install(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "smoothtool.batch.ray_engine", raising=False)
    with pytest.raises(UsageError, match="Ray is not installed") as told:
        launch(plan, RunOptions(engine="ray"))
    assert (told.value.exit_code, told.value.hint) == (2, "pip install 'smoothtool[ray]'")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "what"),
    [
        (RunOptions(engine="rya"), "--engine is rya, not one of local, ray"),
        (RunOptions(workers=2), "--workers are for --engine ray"),
        (RunOptions(engine="ray", shard="1/2"), "both divide the batch"),
    ],
)
def test_flags_that_do_not_go_together_are_told(plan: Plan, tmp_path: Path, options: RunOptions, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        launch(plan, options)
    assert not (tmp_path / "out").exists()
