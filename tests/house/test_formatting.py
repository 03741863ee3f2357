"""The formatter has every statement but tables of numbers."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
MOST_TABLES = 12


def test_the_formatter_is_switched_off_for_a_few_tables_of_numbers_alone() -> None:
    mark = "# fmt: " + "skip"
    files = (path for room in ("smoothtool", "tests") for path in (ROOT / room).rglob("*.py"))
    assert sum(path.read_text("utf-8").count(mark) for path in files) <= MOST_TABLES
