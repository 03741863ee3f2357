"""`smoothtool istd`: the smoothness of a model, and whether a LoRA makes it smoother."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from smoothtool.commands.shared.cost import timed
from smoothtool.commands.shared.folders import growing_result, stopped_with
from smoothtool.commands.shared.loras import lora_files
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.commands.shared.session import begin, finish, note_far_size, note_prompts, open_session
from smoothtool.diffusion.lora import check_lora, load_lora
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import BatchError, UsageError
from smoothtool.figures import IstdFigures
from smoothtool.files.drawing.plots import Line, line_plot
from smoothtool.files.drawing.sheets import contact_sheet
from smoothtool.files.lists.prompts import read_prompts
from smoothtool.files.pictures.images import to_image
from smoothtool.files.storage.digests import digest
from smoothtool.files.storage.records import append_record, read_records
from smoothtool.files.storage.writing import write_picture
from smoothtool.jobs import parse_shard
from smoothtool.jobs.notation import working_size
from smoothtool.methods.smoothness.istd import WalkSettings, prompt_groups, prompt_walks
from smoothtool.metrics.bootstrap import ENOUGH, bootstrap_mean, paired_difference
from smoothtool.metrics.sequences import Deviation, deviation
from smoothtool.readers.regular import at_home
from smoothtool.types import Report, Track
from smoothtool.version import __version__
from smoothtool.weights.models import resolve_model
from smoothtool.weights.sample_pictures import DEFAULT_PROMPTS

if TYPE_CHECKING:
    from smoothtool.jobs import IstdJob

RECORDS = "walks*.jsonl"
PIXEL_RANGES = {"0..1": 1.0, "-1..1": 2.0, "0..255": 255.0}  # how many times longer an L2 distance is in each
SHEET_KEY = "smoothtool walks"
SHOWN = 3  # walks on a sheet, of the smoothest and of the roughest

Measured = dict[str, Deviation | None]
"""By prompt; None where a picture of the walk came out as NaN."""


@dataclass(frozen=True)
class _IstdRun:
    """What both measurements of a run share."""

    job: IstdJob
    prompts: list[str]
    folder: Path
    report: Report[IstdFigures]
    track: Track
    pool: ModelPool


def run(job: IstdJob, track: Track, pool: ModelPool | None = None) -> Report[IstdFigures]:
    """Measure; leaves walks.jsonl (which a second run continues), distances.png, sheets, report.json, job.yaml."""
    pool = pool or ModelPool()
    job, report, track = begin(job, [str(job.prompts or "stickers")], track)
    # 1. prompts, folder, model
    with timed(report, "load"):
        prompts = _prompts(job, track)
        place = growing_result(report, job, _has_walks, force=job.force and job.shard is None)
        model = open_session(_base_job(job), track, pool)
        note_prompts(model, [*prompts, job.negative], track)
        for path, _ in _compared(job):
            check_lora(model, path)  # one that cannot be had is reported now, not after the walks of the base
    with place.opened(alone=False) as folder, stopped_with(lambda: _kept(folder, place.place)):
        report.folder = place.place
        measured = _walk_and_write(model, _IstdRun(job, prompts, folder, report, track, pool))
    _complain(measured, report.folder)
    return report


def _walk_and_write(model: DiffusionModel, state: _IstdRun) -> dict[str, Measured]:
    job, report = state.job, state.report
    # 2. walk under every prompt, without and then with the LoRAs to compare
    names = ["base", *(["compared"] if job.compare_lora else [])]
    measured = {}
    for name in names:
        if name == "compared":
            for path, scale in _compared(job):
                load_lora(model, path, scale)
        with timed(report, name):
            measured[name] = _measure(model, state, name)
    # 3. figures, plot, report
    _check_any(measured, state)
    if len(state.prompts) < ENOUGH:
        state.track.note(f"intervals over {len(state.prompts)} prompts are much too narrow: --n 30 or more")
    report.figures = _figures(job, state.prompts, measured)
    plot = line_plot(
        [_line(name, part) for name, part in measured.items()],
        "adjacent L2 distances, [0, 1] pixels",
        "step",
        "(mean over prompts; band: 10 to 90 %)",
    )
    write_picture(state.folder / "distances.png", plot)
    report.files |= {"walks": sorted(path.name for path in state.folder.glob(RECORDS)), "plot": "distances.png"}
    finish(report, model, state.folder, state.pool)
    return measured


def _has_walks(folder: Path) -> bool:
    return any(folder.glob(RECORDS))


def _kept(folder: Path, place: Path) -> str:
    return f"the same command goes on, with -o {place}" if _has_walks(folder) else ""


def _prompts(job: IstdJob, track: Track) -> list[str]:
    """The first n distinct prompts; what was left out is noted."""
    if job.prompts is None and resolve_model(job.model).name != "stickers":
        raise UsageError("--prompts is missing: only stickers has a list of its own", "--prompts captions_val2017.json")
    listed = read_prompts(at_home(job.prompts) if job.prompts else DEFAULT_PROMPTS)
    distinct = list(dict.fromkeys(listed))
    notes = []
    if len(distinct) < len(listed):
        notes.append(f"repeated prompts are walked once: {len(listed) - len(distinct)} left out")
    if len(distinct) < job.n:
        notes.append(f"there are no more than {len(distinct)} prompts, --n asks for {job.n}")
    for note in notes:
        track.note(note)
    return distinct[: job.n]


def _base_job(job: IstdJob) -> IstdJob:
    """What is compared with the model's own LoRA goes without it."""
    alone = "default" in job.compare_lora and "none" not in job.lora
    return job.model_copy(update={"lora": ["none", *job.lora]}) if alone else job


def _compared(job: IstdJob) -> list[tuple[Path, float]]:
    """File and scale of the LoRAs to compare with."""
    found: list[tuple[Path, float]] = []
    for text in job.compare_lora:
        own = resolve_model(job.model).default_lora if text == "default" else None
        found += [(own, 1.0)] if own else lora_files([text])
    return found


def _measure(model: DiffusionModel, state: _IstdRun, name: str) -> Measured:
    """Walk under the prompts of this shard that have no record yet; all records of these settings come back.

    Groups of prompts are shared out and walked whole, so that shards and resumed runs agree to the bit.
    """
    settings = _walk_settings(model, state.job)
    note_far_size(model.picture_size_px(settings.latent_shape), model, state.track)
    key = _key(model, settings)
    index, count = parse_shard(state.job.shard)
    groups = prompt_groups(state.prompts, settings.frames, state.job.batch_size)[index - 1 :: count]
    again = {prompt for group in groups for prompt in group} if state.job.force else set()
    known = {prompt: part for prompt, part in _known(state, key).items() if prompt not in again}
    todo = [prompt for group in groups if not known.keys() >= set(group) for prompt in group]
    path = state.folder / _records_name(state.job)
    walks = prompt_walks(model, todo, settings, state.job.batch_size) if todo else iter(())
    for walk in state.track(walks, f"walking ({name})", len(todo)):
        if walk.prompt in known:
            continue
        finite = bool(walk.pixel_values.isfinite().all())
        known[walk.prompt] = deviation(walk.pixel_values) if finite else None
        figures = known[walk.prompt]
        record = {"key": key, "model": name, "prompt": walk.prompt, "deviation": figures and figures.figures()}
        append_record(path, record)
    known = {**_known(state, key), **known}  # with what other shards have done meanwhile
    measured = {prompt: known[prompt] for prompt in state.prompts if prompt in known}
    missing = len(state.prompts) - len(measured)
    if missing:
        state.track.note(f"{name}: {missing} of {len(state.prompts)} prompts are left to the other shards")
    sheet = state.folder / f"sheet-{name}.png"
    if not missing and (todo or _shown_key(sheet) != key):
        _write_sheet(model, measured, settings, state.job.batch_size, sheet, key)
    if sheet.exists():
        state.report.files[f"sheet_{name}"] = sheet.name
    return measured


def _records_name(job: IstdJob) -> str:
    index, count = parse_shard(job.shard)
    return "walks.jsonl" if count == 1 else f"walks-{index}-of-{count}.jsonl"


def _walk_settings(model: DiffusionModel, job: IstdJob) -> WalkSettings:
    shape = model.noise_shape(working_size(job.size))
    return WalkSettings(job.seed or 0, shape, job.frames, job.steps, job.guidance, job.negative)


def _key(model: DiffusionModel, settings: WalkSettings) -> str:
    """All that a walk depends on: records of other settings in the same folder are never mixed in."""
    return digest([model.identity(), asdict(settings), str(model.dtype), __version__], 16)


def _known(state: _IstdRun, key: str) -> Measured:
    found: Measured = {}
    for record in read_records(state.folder, RECORDS, {"key": str, "prompt": str}):
        if record["key"] == key and "deviation" in record:
            figures = record["deviation"]
            with suppress(TypeError, KeyError):  # other figures than ours: measured again
                found[record["prompt"]] = figures and Deviation(**{**figures, "distances": tuple(figures["distances"])})
    return found


def _figures(job: IstdJob, prompts: Sequence[str], measured: Mapping[str, Measured]) -> IstdFigures:
    """ISTD as asked for and by every definition, per prompt too; of two models also the paired difference."""
    figures = _istd(job, measured["base"])
    if "compared" in measured:
        both = [p for p in prompts if all(part.get(p) is not None for part in measured.values())]
        columns = [_values(job, {p: part[p] for p in both}) for part in measured.values()]
        difference = paired_difference(*columns, seed=job.seed or 0)
        figures["compared"] = _istd(job, measured["compared"])
        figures["difference"] = {**difference.figures(), "excludes_zero": difference.excludes_zero}
        figures["ratio"] = figures["compared"]["istd"]["mean"] / figures["istd"]["mean"]
    return figures


def _istd(job: IstdJob, measured: Measured) -> IstdFigures:
    rows = {prompt: part for prompt, part in measured.items() if part is not None}
    kinds: dict[str, Callable[[Deviation], float | None]] = {
        "population": lambda part: part.population_std,
        "sample": lambda part: part.sample_std,
    }
    normalised = [part.normalised_std for part in rows.values()]
    means = {name: float(np.mean([kind(part) for part in rows.values()])) for name, kind in kinds.items()}
    return {
        "istd": bootstrap_mean(_values(job, rows), seed=job.seed or 0).figures(),
        "definition": {"std": job.std, "pixel_range": job.pixel_range},
        "by_definition": {
            name: {span: factor * mean for span, factor in PIXEL_RANGES.items()} for name, mean in means.items()
        },
        "size_normalised": bootstrap_mean(normalised, seed=job.seed or 0).figures(),
        "excluded": [prompt for prompt, part in measured.items() if part is None],
        "per_prompt": {prompt: part.figures() for prompt, part in rows.items()},
    }


def _values(job: IstdJob, measured: Mapping[str, Deviation | None]) -> list[float]:
    """One deviation per prompt, in the definition of the job."""
    factor = PIXEL_RANGES[job.pixel_range]
    rows = [part for part in measured.values() if part is not None]
    return [factor * float(part.population_std if job.std == "population" else part.sample_std or 0) for part in rows]


def _line(name: str, measured: Measured) -> Line:
    table = np.array([part.distances for part in measured.values() if part is not None])
    low, high = np.quantile(table, [0.1, 0.9], axis=0)
    return Line(name, range(1, table.shape[1] + 1), table.mean(axis=0), low, high)


def _write_sheet(
    model: DiffusionModel, measured: Measured, settings: WalkSettings, batch_size: int, path: Path, key: str
) -> None:
    """The smoothest and the roughest walks, walked once more: keeping all pictures would fill the disk."""
    ordered = sorted((part.population_std, prompt) for prompt, part in measured.items() if part is not None)
    chosen = list(dict.fromkeys([*ordered[:SHOWN], *ordered[-SHOWN:]]))
    if not chosen:
        return
    walks = prompt_walks(model, [prompt for _, prompt in chosen], settings, batch_size)
    rows = [[to_image(frame) for frame in walk.pixel_values] for walk in walks]
    labels = [f"{std:.2f} {prompt}" for std, prompt in chosen]
    settings_key = PngInfo()
    settings_key.add_text(SHEET_KEY, key)
    write_picture(path, contact_sheet(rows, row_labels=labels, cell_px=64), pnginfo=settings_key)


def _shown_key(sheet: Path) -> str | None:
    """The settings whose walks a sheet shows; None where there is no sheet."""
    if not sheet.exists():
        return None
    with Image.open(sheet) as picture:
        return picture.info.get(SHEET_KEY)


def _check_any(measured: Mapping[str, Measured], state: _IstdRun) -> None:
    """Figures need one whole walk of each model."""
    if not all(any(part.values()) for part in measured.values()):
        _complain(measured, state.report.folder)
        raise UsageError(f"--shard {state.job.shard}: no prompt falls to this share", "fewer shards, or a larger --n")


def _complain(measured: Mapping[str, Measured], folder: Path) -> None:
    broken = [f"{prompt!r} ({name})" for name, part in measured.items() for prompt in part if part[prompt] is None]
    if broken:
        named = ", ".join(broken[:5]) + (f" and {len(broken) - 5} more" if len(broken) > 5 else "")
        raise BatchError(f"{folder}: NaN pictures, left out of the figures: {named}", "--dtype float32")
