"""Measured tables beside a paper's figures, as Markdown and as one HTML page: every cell leads to its report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jinja2 import Environment

from smoothtool.files.drawing.markdown import markdown_table


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


def tables_markdown(title: str, about: str, tables: Sequence[Table], orderings: Sequence[Ordering]) -> str:
    """The document as Markdown."""
    return "\n".join(_markdown_lines(title, about, tables, orderings))


def tables_html(title: str, about: str, tables: Sequence[Table], orderings: Sequence[Ordering]) -> str:
    """The same as one page; whatever stands in prompts and paths is escaped."""
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(PAGE)
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


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #28282c; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #ddd; vertical-align: top; }
th:first-child, td:first-child, .words td { text-align: left; }
small { display: block; color: #6a6a70; }
.paper { color: #6a6a70; font-style: italic; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p>{{ about }}</p>
{% for table in tables %}
<h2>{{ table.title }}</h2>
<p>{{ table.note }}</p>
<table>
<tr><th></th>
{% for column in table.columns %}
<th>{{ column }}</th>
{% if table.has_paper[loop.index0] %}
<th class="paper">{{ table.paper_columns[loop.index0] }}, paper</th>
{% endif %}
{% endfor %}
</tr>
{% for label, cells in table.rows %}
<tr><td>{{ label }}</td>
{% for cell in cells %}
<td>{% if cell.text %}<a href="{{ cell.report }}">{{ cell.text }}</a><small>{{ cell.interval }}</small>{% endif %}</td>
{% if table.has_paper[loop.index0] %}
<td class="paper">{% if cell.paper is not none %}{{ cell.paper }}{% endif %}</td>
{% endif %}
{% endfor %}
</tr>
{% endfor %}
</table>
{% if table.missing %}
<ul>
{% for line in table.missing %}
<li>{{ line }}</li>
{% endfor %}
</ul>
{% endif %}
{% endfor %}
<h2>Which of the paper's orderings hold here</h2>
<table class="words">
<tr><td>claim</td><td>here</td><td>read from</td></tr>
{% for ordering in orderings %}
<tr><td>{{ ordering.claim }}</td><td>{{ ordering.verdict }}</td><td>{{ ordering.evidence }}</td></tr>
{% endfor %}
</table>
</body>
</html>
"""
