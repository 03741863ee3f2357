"""Measured tables beside a paper's figures, as Markdown and as one HTML page: every cell leads to its report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from smoothtool.figures import CellFigures, OrderingFigures, TableFigures
from smoothtool.files.drawing.markdown import markdown_table
from smoothtool.files.drawing.pages import templates_in

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Cell:
    """One figure, with its 95 % interval where there is one and the paper's figure where it has one.

    report  path of the report it was taken from, relative to the tables
    reason  why there is no figure; empty where there is one
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    report: str = ""
    paper: float | None = None
    reason: str = ""

    def figures(self) -> CellFigures:
        return {
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "report": self.report,
            "paper": self.paper,
            "reason": self.reason,
        }

    @property
    def text(self) -> str:
        return "" if self.value is None else f"{self.value:.4g}"

    @property
    def interval(self) -> str:
        return "" if self.low is None or self.high is None else f"{self.low:.4g} to {self.high:.4g}"


@dataclass(frozen=True)
class Table:
    """`rows` are a label and one cell per column each; `note` says what to know before reading.

    paper_columns  what the paper measured in each column, which need not be what was measured here
    """

    title: str
    note: str
    columns: tuple[str, ...]
    paper_columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]

    def figures(self) -> TableFigures:
        return {
            "title": self.title,
            "note": self.note,
            "columns": self.columns,
            "paper_columns": self.paper_columns,
            "rows": [(label, [cell.figures() for cell in cells]) for label, cells in self.rows],
        }

    @property
    def has_paper(self) -> tuple[bool, ...]:
        """Per column, whether the paper has figures for it."""
        return tuple(any(cells[at].paper is not None for _, cells in self.rows) for at in range(len(self.columns)))

    @property
    def missing(self) -> list[str]:
        """A line for every reason, with the cells that are empty for it."""
        found: dict[str, list[str]] = {}
        for label, cells in self.rows:
            for column, cell in zip(self.columns, cells, strict=True):
                if cell.value is None:
                    found.setdefault(cell.reason, []).append(f"{column} of {label}")
        return [f"not measured, because {reason}: {'; '.join(cells)}" for reason, cells in found.items()]


@dataclass(frozen=True)
class Ordering:
    """One of the paper's claims, whether it holds here, and what that is read from."""

    claim: str
    verdict: str
    evidence: str

    def figures(self) -> OrderingFigures:
        return {"claim": self.claim, "verdict": self.verdict, "evidence": self.evidence}


def tables_markdown(title: str, about: str, tables: Sequence[Table], orderings: Sequence[Ordering]) -> str:
    """The document as Markdown."""
    return "\n".join(_markdown_lines(title, about, tables, orderings))


def tables_html(title: str, about: str, tables: Sequence[Table], orderings: Sequence[Ordering]) -> str:
    """The same as one page; whatever stands in prompts and paths is escaped."""
    template = templates_in(TEMPLATES).get_template("tables.html.j2")
    return template.render(title=title, about=about, tables=tables, orderings=orderings)


def _markdown_lines(title: str, about: str, tables: Sequence[Table], orderings: Sequence[Ordering]) -> Iterator[str]:
    yield f"# {title}\n\n{about}\n"
    for table in tables:
        yield f"## {table.title}\n\n{table.note}\n"
        yield markdown_table([_markdown_row(table, label, cells) for label, cells in table.rows])
        yield from (f"- {line}" for line in table.missing)
        yield ""
    yield "## Which of the paper's orderings hold here\n"
    yield markdown_table([{"claim": o.claim, "here": o.verdict, "read from": o.evidence} for o in orderings])


def _markdown_row(table: Table, label: str, cells: Sequence[Cell]) -> dict[str, str | None]:
    row: dict[str, str | None] = {"": label}
    columns = zip(table.columns, table.paper_columns, cells, table.has_paper, strict=True)
    for column, paper_column, cell, has_paper in columns:
        interval = f" ({cell.interval})" if cell.interval else ""
        row[column] = f"[{cell.text}]({cell.report}){interval}" if cell.text else None
        if has_paper:
            row[f"{paper_column}, paper"] = None if cell.paper is None else f"{cell.paper:g}"
    return row
