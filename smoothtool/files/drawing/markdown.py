"""Rows of figures as a Markdown table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """One column per key of the first row, numbers aligned right; what is missing is an empty cell."""
    heads = list(rows[0])
    cells = [[_cell(row.get(head)) for head in heads] for row in rows]
    numeric = [all(isinstance(row.get(head), (int, float, type(None))) for row in rows) for head in heads]
    widths = [max(3, len(head), *(len(line[at]) for line in cells)) for at, head in enumerate(heads)]
    rule = ["-" * (width - 1) + (":" if right else "-") for width, right in zip(widths, numeric, strict=True)]
    lines = [heads, rule, *cells]
    return "".join(f"| {' | '.join(_padded(line, widths, numeric))} |\n" for line in lines)


def _padded(line: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> list[str]:
    return [
        text.rjust(width) if right else text.ljust(width)
        for text, width, right in zip(line, widths, numeric, strict=True)
    ]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")
