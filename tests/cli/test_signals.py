"""Signals end a run within a moment, without a traceback, and with the exit code that shells know."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SWALLOWS = """
import pathlib, time
pathlib.Path({mark!r}).touch()
while True:
    try:
        time.sleep(60)
    except BaseException:
        pass
"""
"""A library that is being loaded, and does not let an exception pass."""
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


def started(folder: Path, library: str, **how: object) -> subprocess.Popen:
    """The command line in the moment in which it loads a library."""
    (folder / f"{library}.py").write_text(SWALLOWS.format(mark=str(folder / "loading")))
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[2])])
    process = subprocess.Popen(
        [sys.executable, "-m", "smoothtool", "interpolate", "samples:fox", "samples:cat", "-o", str(folder / "out")],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **how,
    )
    end = time.monotonic() + 60
    while not (folder / "loading").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("library", ["typer", "torch"])
def test_while_libraries_load_a_signal_ends_the_process_at_once(tmp_path: Path, library: str, number: int) -> None:
    process = started(tmp_path, library, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    process.send_signal(number)
    out, err = process.communicate(timeout=10)
    assert process.returncode == CODES[number]
    assert "Traceback" not in err
    assert ("interrupted" in err) == (number == signal.SIGINT)
    assert out == ""
    assert not (tmp_path / "out").exists()


def test_what_nohup_ignores_stays_ignored(tmp_path: Path) -> None:
    process = started(tmp_path, "torch", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 143
