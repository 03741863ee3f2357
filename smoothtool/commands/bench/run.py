"""`smoothtool bench`: a published benchmark by any of our methods; resumable, in shares, beside the papers' rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from math import fsum
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from smoothtool.commands import run_job
from smoothtool.commands.bench.benchmark import Benchmark, Figures
from smoothtool.commands.bench.drag import DRAG
from smoothtool.commands.bench.morph import MORPH
from smoothtool.commands.bench.pie import PIE
from smoothtool.commands.shared.folders import stopped_with
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.commands.shared.session import begin, next_free, save_report
from smoothtool.errors import BatchError, SmoothtoolError, explain, out_of_memory
from smoothtool.figures import BenchColumns, BenchFigures
from smoothtool.files.drawing.markdown import markdown_table
from smoothtool.files.drawing.pages import templates_in
from smoothtool.files.storage.digests import digest
from smoothtool.files.storage.output import create_folder, output_folder, results_folder
from smoothtool.files.storage.records import append_record, read_records
from smoothtool.files.storage.writing import write_text_atomic
from smoothtool.jobs import parse_shard
from smoothtool.recipe.benchmarks import BenchItem, job_of_item, read_items, share
from smoothtool.types import Files, Report, Track, silent
from smoothtool.version import __version__

if TYPE_CHECKING:
    from smoothtool.jobs import BenchJob, Job

BENCHMARKS: dict[str, Benchmark] = {"pie": PIE, "morph": MORPH, "drag": DRAG}
RECORDS = "items*.jsonl"
SCALES = {"structure": 1e3, "lpips": 1e3, "mse": 1e4, "ssim": 1e2, "normalised": 1e2}
"""How many times larger papers print a figure than it is."""


def run(job: BenchJob, track: Track, pool: ModelPool | None = None) -> Report[BenchFigures]:
    """Make and measure; leaves items/, items.jsonl (which a second run continues), items.csv, table.md, table.html."""
    benchmark, pool = BENCHMARKS[job.benchmark], pool or ModelPool()
    # 1. items, each as a job of the command that makes it; the folder
    items = read_items(job)
    asked = {item.key: job_of_item(job, item) for item in items}
    report: Report[BenchFigures]
    job, report, track = begin(job, [job.benchmark, Path(job.folder).name], track)
    report.folder = _open_bench_folder(job, report)
    # 2. make and measure what has no record yet
    measure = benchmark.measure(job, track, pool)
    known = {} if job.force else _known(report.folder, asked)
    todo = [item for item in share(items, *parse_shard(job.shard)) if item.key not in known]
    with stopped_with(lambda: f"the same command goes on, with -o {report.folder}"):
        for item in track(todo, "measuring", len(todo)):
            known[item.key] = _record(item, asked[item.key], report.folder, measure, pool)
            report.unet_calls += known[item.key].get("unet_calls", 0)
            append_record(report.folder / _records_name(job), known[item.key])
    # 3. the table, beside the published rows
    rows = [known[item.key] for item in items if item.key in known]
    report.figures = _means(benchmark, rows, missing=len(items) - len(rows))
    made = [(item, report.folder / "items" / item.key) for item in items if "figures" in known.get(item.key, {})]
    if benchmark.together is not None and made:
        report.figures = _with_sets(report.figures, benchmark.together(job, made, track), len(made))
    report.files = _write_tables(benchmark, job, rows, report)
    save_report(report, report.folder)
    failed = [row["item"] for row in rows if "error" in row]
    if failed:
        raise BatchError(f"{len(failed)} of {len(rows)} items failed, the first is {failed[0]}", f"see {report.folder}")
    return report


def _open_bench_folder(job: BenchJob, report: Report) -> Path:
    """A new folder, or one with records to go on with; --force makes each item again, and then replaces it."""
    folder = results_folder(report.folder)
    if any(folder.glob(RECORDS)):
        return folder
    moved_on = None if job.output else lambda: next_free(report.folder)
    return create_folder(output_folder(report.folder, force=False), moved_on)


def _records_name(job: BenchJob) -> str:
    return "items.jsonl" if job.shard is None else f"items-{job.shard.replace('/', '-of-')}.jsonl"


def _known(folder: Path, asked: Mapping[str, Job]) -> dict[str, dict[str, Any]]:
    """The records that were made by the same jobs; what failed is tried again."""
    keys = {name: _key(job) for name, job in asked.items()}
    rows = read_records(folder, RECORDS, {"item": str, "key": str})
    return {row["item"]: row for row in rows if row["key"] == keys.get(row["item"]) and "error" not in row}


def _key(job: Job) -> str:
    return digest([job.command, job.settings(), __version__], 16)


def _record(item: BenchItem, job: Job, folder: Path, measure: Any, pool: ModelPool) -> dict[str, Any]:
    """One item's record; one that cannot be made, or does not fit into memory, says why."""
    result, head = folder / "items" / item.key, {"item": item.key, "key": _key(job)}
    try:
        made = run_job(job.model_copy(update={"output": result, "force": result.exists()}), silent, pool)
        figures, no_edit = measure(item, result)
    except (SmoothtoolError, RuntimeError, MemoryError) as error:
        if not (isinstance(error, SmoothtoolError) or out_of_memory(error)):
            raise
        return {**head, "error": str(explain(error))}
    return {
        **head,
        "figures": figures,
        "no_edit": no_edit,
        "seconds": sum(made.seconds.values()),
        "unet_calls": made.unet_calls,
    }


def _means(benchmark: Benchmark, rows: Sequence[Mapping[str, Any]], *, missing: int) -> BenchFigures:
    """Per column the mean over the items (or their parts) that have a figure, and how many items those are."""
    done = [row for row in rows if "error" not in row]

    def mean(kind: str, column: str) -> float | None:
        there = [row[kind] for row in done if row[kind].get(column) is not None]
        counts = [row[benchmark.weights[column]] if column in benchmark.weights else 1 for row in there]
        weighted = fsum(row[column] * count for row, count in zip(there, counts, strict=True))
        return weighted / sum(counts) if there else None

    return {
        "measured": {column: mean("figures", column) for column in benchmark.columns},
        "no edit": {column: mean("no_edit", column) for column in benchmark.columns},
        "counts": {column: sum(row["figures"].get(column) is not None for row in done) for column in benchmark.columns},
        "items": len(done),
        "failed": len(rows) - len(done),
        "seconds": fmean(row["seconds"] for row in done) if done else None,
        "unet_calls": fmean(row["unet_calls"] for row in done) if done else None,
        "rule": benchmark.rule,
        "missing": missing,
    }


def _with_sets(figures: BenchFigures, found: tuple[Figures, Figures], items: int) -> BenchFigures:
    """The means, and beside them what is measured of all items together."""
    measured, idle = found
    return {
        **figures,
        "measured": {**figures["measured"], **measured},
        "no edit": {**figures["no edit"], **idle},
        "counts": {**figures["counts"], **dict.fromkeys(measured, items)},
    }


def _write_tables(
    benchmark: Benchmark, job: BenchJob, rows: Sequence[Mapping[str, Any]], report: Report[BenchFigures]
) -> Files:
    """items.csv with a line per item; table.md and table.html with the means beside the published rows."""
    figures = report.figures
    name = "  ".join(filter(None, (job.method or "default method", job.inversion, job.model)))
    means = {f"{name} ({figures['items']} items)": figures["measured"], "no edit": figures["no edit"]}
    table = [_shown(benchmark, row, values) for row, values in {**means, **benchmark.published}.items()]
    text = f"{markdown_table(table)}\nRule: {benchmark.rule}.\n"
    write_text_atomic(report.folder / "table.md", text)
    write_text_atomic(report.folder / "table.html", _html(table, benchmark.rule))
    write_text_atomic(report.folder / "items.csv", _csv(benchmark, rows))
    return {"items": "items.csv", "table": "table.md", "html": "table.html", "records": RECORDS}


def _shown(benchmark: Benchmark, name: str, values: BenchColumns) -> dict[str, Any]:
    cells = {head: values.get(column) for column, head in benchmark.columns.items()}
    scales = {head: SCALES.get(column, 1.0) for column, head in benchmark.columns.items()}
    return {"": name, **{head: None if value is None else value * scales[head] for head, value in cells.items()}}


def _csv(benchmark: Benchmark, rows: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    columns = [*benchmark.columns, *dict.fromkeys(benchmark.weights.values())]
    writer = csv.DictWriter(text, ["item", *columns, "seconds", "unet_calls", "error"], lineterminator="\n")
    writer.writeheader()
    for row in rows:
        plain = {key: row.get(key) for key in ("item", "seconds", "unet_calls", "error")}
        writer.writerow({**plain, **row.get("figures", {})})
    return text.getvalue()


def _html(table: Sequence[Mapping[str, Any]], rule: str) -> str:
    page = templates_in(Path(__file__).parent / "templates").get_template("table.html.j2")
    return page.render(heads=list(table[0]), rows=[list(row.values()) for row in table], rule=rule)
