"""The doors between the rooms stand in pyproject.toml, as contracts of import-linter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_every_import_goes_through_a_door() -> None:
    pytest.importorskip("importlinter", reason="import-linter comes with the extra smoothtool[dev]")
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
