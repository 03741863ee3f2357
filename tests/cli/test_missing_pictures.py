"""A picture that is not there is told before anything heavy is loaded."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from smoothtool.__main__ import main
try:
    main()
except SystemExit as stop:
    print("torch" in sys.modules, stop.code)
"""


def test_a_missing_picture_is_told_without_torch() -> None:
    command = [sys.executable, "-c", PROGRAM, "interpolate", "nowhere.png", "samples:fox"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.split() == ["False", "5"]
    assert "nowhere.png: no such file" in done.stderr
