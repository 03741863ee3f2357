"""How much longer a command takes beside a busy process, by the way in which waiting threads of OpenMP wait.

    python tests/benchmarks/bench_busy.py [COMMAND ...]

Seconds of the README's first command on two cores, idle and beside one process that computes without end, for four
ways: the library's own default, GOMP_SPINCOUNT of 1000 and of 100 (smoothtool's choice), and OMP_WAIT_POLICY=PASSIVE.
It takes about six minutes on a machine that does nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

README_COMMAND = ("interpolate", "samples:apple", "samples:pear", "-n", "9")
LIBRARY_DEFAULT = "300000"
"""libgomp's own count where neither variable is set; smoothtool would set its own if this one were left out."""
WAYS = {
    "default": {"GOMP_SPINCOUNT": LIBRARY_DEFAULT},
    "spin 1000": {"GOMP_SPINCOUNT": "1000"},
    "spin 100": {"GOMP_SPINCOUNT": "100"},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE"},
}
CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
ROOT = Path(__file__).parents[2]


def main(command: tuple[str, ...]) -> dict[str, dict[str, float]]:
    cores = _two_cores()
    figures: dict[str, dict[str, float]] = {}
    for name, way in WAYS.items():
        figures[name] = {"idle_s": _seconds(command, way, cores)}
        with _busy_process(cores):
            figures[name]["busy_s"] = _seconds(command, way, cores)
    return figures


def _seconds(command: tuple[str, ...], way: dict[str, str], cores: set[int]) -> float:
    """Wall-clock seconds of the command, with an empty cache of inversions."""
    kept = {name: text for name, text in os.environ.items() if name not in CHOICES}
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **kept,
            **way,
            "OMP_NUM_THREADS": str(len(cores)),
            "SMOOTHTOOL_CACHE": f"{folder}/cache",
            "PYTHONPATH": str(ROOT),
        }
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "smoothtool", *command, "-q", "-o", f"{folder}/out"],
            check=True,
            env=environment,
            stdout=subprocess.DEVNULL,
            preexec_fn=lambda: _stay_on(cores),
        )
        return round(time.perf_counter() - started, 1)


@contextmanager
def _busy_process(cores: set[int]) -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"], preexec_fn=lambda: _stay_on(cores))
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _two_cores() -> set[int]:
    return set(sorted(os.sched_getaffinity(0))[:2]) if hasattr(os, "sched_getaffinity") else {0, 1}


def _stay_on(cores: set[int]) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


if __name__ == "__main__":
    print(json.dumps(main(tuple(sys.argv[1:]) or README_COMMAND), indent=2))
