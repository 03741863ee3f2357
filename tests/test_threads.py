"""Waiting threads leave the processor to others, unless the user has chosen otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from smoothtool.cli import console, doctor
from smoothtool.threads import limit_spinning


def in_new_process(program: str, **environment: str) -> str:
    chosen = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
    kept = {name: text for name, text in os.environ.items() if name not in chosen}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1],
        env={**kept, **environment},
        text=True,
        capture_output=True,
        timeout=60,
        check=True,
    )
    return done.stdout.strip()


def test_the_count_is_set_before_torch_is_loaded_wherever_smoothtool_is_imported_first() -> None:
    program = "import smoothtool, os, sys; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    assert in_new_process(program) == "100 False"


def test_tests_that_share_the_cores_take_one_each_since_torch_is_loaded_after_that_is_said() -> None:
    program = "import sys; sys.path.insert(0, 'tests'); import conftest; print('torch' in sys.modules); "
    program += "import torch; print(torch.get_num_threads())"
    assert in_new_process(program, PYTEST_XDIST_WORKER="gw0").split() == ["False", "1"]


@pytest.mark.parametrize(("name", "chosen"), [("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "ACTIVE")])
def test_what_the_user_chose_stays(name: str, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    environment = {name: chosen}
    limit_spinning(environment)
    assert environment == {name: chosen}


def test_nothing_is_set_where_it_would_come_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", sys)
    environment: dict[str, str] = {}
    limit_spinning(environment)
    assert environment == {}


def test_doctor_shows_how_threads_wait(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "_devices", lambda: "cpu")
    monkeypatch.setattr(console, "show", console.Show())
    monkeypatch.setenv("GOMP_SPINCOUNT", "100")
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    doctor.doctor()
    assert "GOMP_SPINCOUNT=100, OMP_WAIT_POLICY=not set" in capsys.readouterr().out
