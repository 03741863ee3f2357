"""`smoothtool tables`: the four tables of Smooth Diffusion and its baselines, measured beside the paper's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smoothtool.commands.shared.cost import timed
from smoothtool.commands.shared.folders import stopped_with
from smoothtool.commands.shared.loras import lora_files
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.commands.shared.session import begin, describe_model, next_free, open_session, save_report
from smoothtool.commands.tables.document import Ordering, Table, tables_html, tables_markdown
from smoothtool.commands.tables.figures import (
    PAPER_GENERATION,
    PAPER_LAMBDA,
    PAPER_RANK,
    PAPER_RECONSTRUCTION,
    PAPER_TITLE,
    Figure,
    below,
    generation_orderings,
    reconstruction_orderings,
    training_orderings,
    weights_of_table_3,
)
from smoothtool.commands.tables.measurements import (
    RUNS,
    SEQUENCE_FRAMES,
    TablesRun,
    Variant,
    clip_name,
    frechet_name,
    istd_figure,
    perceptual_name,
    picture_figures,
    reconstruction_figures,
    rows_of_inversion,
    sequence_figures,
    trained,
)
from smoothtool.commands.tables.pictures import RealPictures, real_pictures, vae_copies
from smoothtool.errors import BatchError, UsageError
from smoothtool.figures import TablesFigures
from smoothtool.files.drawing.sheets import contact_sheet
from smoothtool.files.lists.prompts import read_prompts
from smoothtool.files.pictures.images import load_image
from smoothtool.files.storage.output import create_folder, output_folder, results_folder
from smoothtool.files.storage.writing import write_picture, write_text_atomic
from smoothtool.readers.regular import at_home
from smoothtool.types import Report, Track
from smoothtool.weights.models import resolve_model
from smoothtool.weights.sample_pictures import DEFAULT_PROMPTS, natural

if TYPE_CHECKING:
    from smoothtool.jobs import TablesJob

TITLE = "Smooth Diffusion's tables, measured again"
Rows = dict[str, list[Figure]]


@dataclass
class _Document:
    """What has been measured so far."""

    tables: list[Table] = field(default_factory=list)
    orderings: list[Ordering] = field(default_factory=list)


def run(job: TablesJob, track: Track, pool: ModelPool | None = None) -> Report[TablesFigures]:
    """Measure; leaves tables.md, tables.html, walks.png, report.json, job.yaml, and every run in runs/.

    A second run with the same folder goes on where the first one stopped.
    """
    screen, document = track, _Document()
    job, report, track = begin(job, ["paper"], track)
    # 1. models, pictures, folder
    base, own_lora, job = _base(job, track)
    pool = pool or ModelPool()
    with timed(report, "load"):
        real = _open(job, base, report, track, pool)
    state = TablesRun(job, report.folder, real, report, track, screen, pool)
    with stopped_with(lambda: f"the same command goes on, with -o {report.folder}"):
        _measure(state, base, own_lora, document)
    _write(state, document)
    if state.failures:
        more = f" and {len(state.failures) - 1} more" if state.failures[1:] else ""
        raise BatchError(f"{state.folder}: cells are empty: {state.failures[0]}{more}", "tables.md has every reason")
    return report


def _open(job: TablesJob, base: Variant, report: Report, track: Track, pool: ModelPool) -> RealPictures:
    """Describe the model, open the folder, gather the pictures. The model stays in the pool alone: memory holds one."""
    model = open_session(job.model_copy(update={"model": base.model, "lora": list(base.lora)}), track, pool)
    report.model = describe_model(model)
    _open_tables_folder(job, report)
    return real_pictures(model, job, report.folder / RUNS / "pictures", track)


def _measure(state: TablesRun, base: Variant, own_lora: Path | None, document: _Document) -> None:
    job, report = state.job, state.report
    # 2. train, because the smooth model may come from here
    with timed(report, "train"):
        by_lambda = {text: _of_lambda(state, base, text) for text in weights_of_table_3(job.variation_weight)}
        _, rank_8, _ = by_lambda.values()
        by_rank = {text: rank_8 if text == "8" else _of_rank(state, base, text) for text in PAPER_RANK}
        smooth = _smooth(job, base, own_lora, by_rank["8"])
    # 3. the tables
    with timed(report, "generation"):
        _generation(state, base, smooth, document)
    with timed(report, "reconstruction"):
        _reconstruction(state, base, smooth, document)
    with timed(report, "training settings"):
        _training(state, by_lambda, by_rank, document)
    with timed(report, "sequences"):
        _sequences(state, base, smooth, document)


def _base(job: TablesJob, track: Track) -> tuple[Variant, Path | None, TablesJob]:
    """The model without the LoRA it comes with, that LoRA, and the job with its prompts named.

    Raises: UsageError, InputError or ModelError when prompts or smooth LoRA are not there.
    """
    place = resolve_model(job.model)
    if place.notice:
        track.note(place.notice)
    if job.prompts is None and place.name != "stickers":
        raise UsageError("--prompts is missing: only stickers has a list of its own", "--prompts captions_val2017.json")
    if job.smooth != "default":
        lora_files([job.smooth])  # one that is missing is reported now, not after the trainings
    prompts = str(at_home(str(job.prompts or DEFAULT_PROMPTS)).absolute())
    read_prompts(Path(prompts))  # a list that cannot be read is reported now, not after the trainings
    lora = tuple(text for text in job.lora if text != "none")
    base = Variant("base", str(place.folder or place.single_file), lora)
    return base, place.default_lora, job.model_copy(update={"prompts": prompts})


def _smooth(job: TablesJob, base: Variant, own_lora: Path | None, rank_8: Variant) -> Variant:
    """The LoRA that was asked for, else the model's own, else the one of rank 8 trained here."""
    if job.smooth == "default" and own_lora is None:
        return rank_8
    return Variant("smooth", base.model, (*base.lora, str(own_lora) if job.smooth == "default" else job.smooth))


def _of_lambda(state: TablesRun, base: Variant, weight: str) -> Variant:
    return trained(state, base, f"lambda-{weight}", {"lambda": weight, "rank": 8, "init": state.job.init})


def _of_rank(state: TablesRun, base: Variant, rank: str) -> Variant:
    """At the job's lambda."""
    settings = {"full": True} if rank == "full" else {"rank": rank, "init": state.job.init}
    return trained(state, base, f"rank-{rank}", {"lambda": f"{state.job.variation_weight:g}", **settings})


def _open_tables_folder(job: TablesJob, report: Report) -> None:
    """A new folder, or one with runs to go on with; --force makes each again, and replaces it when that is made."""
    folder = results_folder(report.folder)
    if not (folder / RUNS).is_dir():
        moved_on = None if job.output else lambda: next_free(report.folder)
        folder = create_folder(output_folder(report.folder, force=False), moved_on)
    create_folder(folder / RUNS)
    report.folder = folder


def _table(
    title: str, note: str, columns: Sequence[str], rows: Rows, paper_columns: Sequence[str], paper: dict[str, Any]
) -> Table:
    """`paper` has a figure per column for some of the rows."""
    lines = []
    for label, figures in rows.items():
        theirs = paper.get(label, [None] * len(columns))
        lines.append((label, tuple(f.cell(known) for f, known in zip(figures, theirs, strict=True))))
    return Table(title, note, tuple(columns), tuple(paper_columns), tuple(lines))


def _generation(state: TablesRun, base: Variant, smooth: Variant, document: _Document) -> None:
    columns = ["ISTD", frechet_name(state), "CLIP score"]
    rows = {
        label: [istd_figure(state, variant), *picture_figures(state, variant)]
        for label, variant in (("base", base), ("smooth", smooth))
    }
    count, pictures = len(rows["base"][0].per_item), len(state.real.captions)
    note = (
        f"ISTD over {count} prompts: population standard deviation of L2 distances over [0, 1] pixels (the paper does "
        f"not say which scale it took, so compare ratios{_ratio(rows)}). The other two over {pictures} pictures; the "
        f"score is by {clip_name(state)}, the paper's by another one."
    )
    document.tables.append(
        _table("Table 1: generation", note, columns, rows, ["ISTD", "FID", "CLIP score"], PAPER_GENERATION)
    )
    document.orderings += generation_orderings(rows["base"], rows["smooth"], columns)


def _ratio(rows: Rows) -> str:
    base, smooth = (rows[name][0].value for name in ("base", "smooth"))
    return f": smooth / base is {smooth / base:.2f} here and 0.43 there" if base and smooth else ""


def _reconstruction(state: TablesRun, base: Variant, smooth: Variant, document: _Document) -> None:
    columns = ["MSE", perceptual_name(state), "SSIM", "PSNR"]
    rows: Rows = {}
    for inversion in ("ddim", "nti"):
        for name, variant in (("base", base), ("smooth", smooth)):
            rows |= rows_of_inversion(state, variant, f"{name}, {inversion.upper()}", inversion)
    originals = state.real.paths(state.job.inverted)
    copies = vae_copies(state.session(base), originals, state.folder / RUNS / "pictures", fresh=state.job.force)
    rows["VAE alone"] = reconstruction_figures(state, copies, "vae")
    note = (
        f"{len(originals)} pictures, inverted at guidance 1 and sampled at "
        f"{state.job.guidance:g}, measured as saved in 8 bits. MSE on [-1, 1] pixels, PSNR in dB."
    )
    document.tables.append(
        _table("Table 2: reconstruction", note, columns, rows, ["MSE", "LPIPS", "SSIM", "PSNR"], PAPER_RECONSTRUCTION)
    )
    document.orderings += reconstruction_orderings(rows, columns)


def _training(
    state: TablesRun, by_lambda: dict[str, Variant], by_rank: dict[str, Variant], document: _Document
) -> None:
    columns = ["ISTD", frechet_name(state)]
    known: dict[str, list[Figure]] = {}
    for variant in (*by_lambda.values(), *by_rank.values()):
        if variant.name not in known:
            known[variant.name] = [istd_figure(state, variant), picture_figures(state, variant)[0]]
    lambdas = {text: known[variant.name] for text, variant in by_lambda.items()}
    ranks = {text: known[variant.name] for text, variant in by_rank.items()}
    steps, batch = state.job.train_steps, state.job.train_batch_size
    note = (
        f"Trained here, {steps} steps of {batch} pictures; the paper: 30,000 of 96, with lambda "
        f"{', '.join(PAPER_LAMBDA)} in Table 3 and 1 in Table 4."
    )
    weight = f"{state.job.variation_weight:g}"
    papers_lambda = dict(zip(lambdas, PAPER_LAMBDA.values(), strict=True))
    for title, what, rows, paper in (
        ("Table 3: weight of the regulariser, rank 8", "lambda", lambdas, papers_lambda),
        (f"Table 4: rank of the LoRA, lambda {weight}", "rank", ranks, PAPER_RANK),
    ):
        named = {f"{what} {text}": row for text, row in rows.items()}
        theirs = {f"{what} {text}": row for text, row in paper.items()}
        document.tables.append(_table(title, note, columns, named, ["ISTD", "FID"], theirs))
    document.orderings += training_orderings(lambdas, ranks, columns)


def _sequences(state: TablesRun, base: Variant, smooth: Variant, document: _Document) -> None:
    """The interpolation baselines, as figures and as a picture."""
    few, many = state.job.steps, 4 * state.job.steps
    kinds: list[tuple[str, str, Variant, dict[str, Any]]] = [
        ("slerp walk, base", "slerp-base", base, {}),
        ("slerp walk, smooth", "slerp-smooth", smooth, {}),
        ("VAE interpolation", "vae", base, {"method": "vae"}),
        (f"ANID, {few} steps", f"anid-{few}", base, {"method": "anid"}),
        (f"ANID, {many} steps", f"anid-{many}", base, {"method": "anid", "steps": many}),
    ]
    rows: Rows = {}
    frames: dict[str, list[Path]] = {}
    for label, name, variant, settings in kinds:
        rows[label], frames[label] = sequence_figures(state, variant, name, settings)
    columns = ["deviation of adjacent L2", *(f"{name} in {perceptual_name(state)}" for name in ("PPL", "PDV"))]
    pairs = len(frames["VAE interpolation"])
    note = f"Between {pairs} pairs of pictures, {SEQUENCE_FRAMES} frames each; the paper gives no figures of these."
    document.tables.append(_table("Interpolation", note, columns, rows, columns, {}))
    walk = rows["slerp walk, smooth"][0]
    document.orderings += [
        below(f"Interpolation: {columns[0]} of the smooth slerp walk below {label}", walk, figures[0])
        for label, figures in rows.items()
        if label not in ("slerp walk, smooth", "VAE interpolation")
    ]
    _write_sheet(state, frames)


def _write_sheet(state: TablesRun, frames: dict[str, list[Path]]) -> None:
    """The first pair by every method."""
    shown = {label: folders[0] for label, folders in frames.items() if folders}
    if not shown:
        return
    rows = [
        [load_image(path) for path in sorted(folder.iterdir(), key=lambda path: natural(path.name))]
        for folder in shown.values()
    ]
    write_picture(state.folder / "walks.png", contact_sheet(rows, row_labels=list(shown)))
    state.report.files["walks"] = "walks.png"


def _write(state: TablesRun, document: _Document) -> None:
    report, model = state.report, Path(str(state.report.model["name"])).name
    about = (
        f"Model {model} at {state.job.steps} steps and guidance {state.job.guidance:g}, beside the figures of "
        f"{PAPER_TITLE}. Intervals are of 95 %, by the bootstrap for means and by the jackknife for Frechet distances; "
        "every figure leads to the report it comes from."
    )
    given = (TITLE, about, document.tables, document.orderings)
    write_text_atomic(state.folder / "tables.md", tables_markdown(*given))
    write_text_atomic(state.folder / "tables.html", tables_html(*given))
    report.files |= {"markdown": "tables.md", "page": "tables.html", "runs": RUNS}
    report.figures = {
        "tables": [table.figures() for table in document.tables],
        "orderings": [ordering.figures() for ordering in document.orderings],
    }
    for line in (line for table in document.tables for line in table.missing):
        state.track.note(line)
    save_report(report, state.folder)
