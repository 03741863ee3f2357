"""How the threads of torch wait for each other: the choice has to be made before torch is loaded."""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

SPIN_COUNT, WAIT_POLICY = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"
SPINS = "100"
"""Turns of a waiting OpenMP thread before it sleeps. By default it spins for milliseconds, which takes the processor
from whatever else is running: beside one busy process on two cores a command then lasts three times as long, with 100
turns 1.4 times (`tests/benchmarks/bench_busy.py`). On an idle machine they cost 5 % of the time."""


def limit_spinning(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let waiting threads sleep early, unless the user has chosen how they wait, or torch is loaded already."""
    if "torch" not in sys.modules and not {SPIN_COUNT, WAIT_POLICY} & environment.keys():
        environment[SPIN_COUNT] = SPINS


def waiting(environment: MutableMapping[str, str] = os.environ) -> str:
    """What is chosen, in words for `doctor`."""
    return ", ".join(f"{name}={environment.get(name, 'not set')}" for name in (SPIN_COUNT, WAIT_POLICY))
