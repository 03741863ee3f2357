"""What commands do first and last: fix the seed, load the model with its LoRAs; write down which model it was."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.diffusion.loading import load_model
from smoothtool.diffusion.lora import load_lora
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.single_file import load_single_file
from smoothtool.files.pictures.images import Fitted, fit_image, load_image
from smoothtool.files.pictures.notes import PictureNotes
from smoothtool.files.storage.inversions import is_inversion, load_inversion
from smoothtool.files.storage.names import safe_name
from smoothtool.files.storage.reports import versions, write_report
from smoothtool.jobs import parse_lora
from smoothtool.jobs.notation import a1111_notation, working_size
from smoothtool.readers.regular import at_home
from smoothtool.types import Report, Track
from smoothtool.weights.models import ModelLocation, resolve_model
from smoothtool.weights.sample_pictures import resolve_picture

if TYPE_CHECKING:
    from smoothtool.jobs import ModelJob, ReportJob

DEFAULT_ROOT = Path("smoothtool-out")
Job = TypeVar("Job", bound="ModelJob")


def open_session(job: ModelJob, track: Track, pool: ModelPool) -> DiffusionModel:
    """The job's model from the pool, with its LoRAs: the model's default one first, unless `lora: none`."""
    return pool.open(job, lambda: _load_with_loras(job, track))


def _load_with_loras(job: ModelJob, track: Track) -> DiffusionModel:
    place = resolve_model(job.model)
    if place.notice:
        track.note(place.notice)
    model = _load(place, job)
    if place.default_lora is not None and "none" not in job.lora:
        load_lora(model, place.default_lora)
    for text in job.lora:
        if text != "none":
            path, scale = parse_lora(text)
            load_lora(model, Path(path), scale)
    return model


def _load(place: ModelLocation, job: ModelJob) -> DiffusionModel:
    if place.single_file is not None:
        return load_single_file(place.single_file, place.name, place.tokenizer, device=job.device, dtype=job.dtype)
    assert place.folder is not None
    return load_model(place.folder, place.name, device=job.device, dtype=job.dtype)


def begin(job: Job, sources: Sequence[str], title: str = "") -> tuple[Job, Report]:
    """The job with its seed, and a report named after its sources, which can be read, or after `title` without any."""
    job = with_seed(job)
    report = start_report(job, sources or [title])
    report.notes += check_sources(sources)
    return job, report


def finish(report: Report, model: DiffusionModel, folder: Path, pool: ModelPool) -> None:
    """Add the model, its calls, and the time that precomputing took; write report and recipe."""
    report.model, report.unet_calls = describe_model(model), model.counter.calls
    if pool.precompute_s:
        report.seconds["together"] = pool.precompute_s
    write_report(report, folder)


def check_sources(names: Sequence[str]) -> list[str]:
    """Open pictures and inversion files once, so that a bad one is named before a model is loaded, which takes long.

    Returns what has to be told about them, such as an animation of which the first frame is used.
    Raises: InputError for a picture, ModelError for an inversion file.
    """
    notes = PictureNotes()
    for name in names:
        if is_inversion(name):
            load_inversion(at_home(name))
        else:
            path = resolve_picture(name)
            notes.add(path.name, load_image(path))
    return notes.lines()


def with_seed(job: Job) -> Job:
    """The job with the seed that was asked for, or a fresh one that fits 32 bits, to be recorded."""
    return job if job.seed is not None else job.model_copy(update={"seed": secrets.randbelow(2**32)})


def start_report(job: ReportJob, inputs: Sequence[str]) -> Report:
    """The report with its folder named (after the inputs, unless the job says) and the versions noted."""
    folder = job.output or next_free(DEFAULT_ROOT / default_name(job.command, inputs))
    settings = {key: _kept(value, folder, job.lent_folder) for key, value in job.settings().items()}
    report = Report(command=job.command, folder=folder, job=settings, versions=versions())
    report.notes += [f"{key} {getattr(job, key)}: {origin}" for key, origin in job.origins.items()]
    return report


def default_name(command: str, inputs: Sequence[str]) -> str:
    """`edit-fox`: the folder of a result that nobody named, on one line and not too long, whatever the inputs."""
    return safe_name("-".join([command, *(Path(text.removeprefix("samples:")).stem for text in inputs)]))


def _kept(value: Any, folder: Path, lent_folder: Path | None) -> Any:
    """A picture that Python lent, by the name under which the result will keep it."""
    if isinstance(value, list):
        return [_kept(part, folder, lent_folder) for part in value]
    lent = lent_folder is not None and isinstance(value, str) and Path(value).parent == lent_folder
    return str(folder.absolute() / "inputs" / Path(value).name) if lent else value


def next_free(folder: Path) -> Path:
    """A generated name, or the first of it with -2, -3, … that does not exist: a default never overwrites."""
    stem, dash, number = folder.name.rpartition("-")
    name = stem if dash and number.isdecimal() and folder.with_name(stem).exists() else folder.name
    names = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(folder.with_name(candidate) for candidate in names if not folder.with_name(candidate).exists())


def describe_model(model: DiffusionModel) -> dict[str, object]:
    """The model block of a report."""
    return {
        "name": model.name,
        "fingerprint": model.fingerprint,
        "loras": model.loras,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def note_prompts(model: DiffusionModel, prompts: list[str], track: Track, report: Report) -> None:
    """Say which words the text encoder cannot see, and what it sees as words although it is meant otherwise."""
    notes = []
    for prompt in dict.fromkeys(prompts):
        if cut := model.cut_from(prompt):
            notes.append(f"the prompt is over {model.tokenizer.model_max_length - 2} tokens, cut from: {cut!r}")
    notes += note_notation(prompts)
    for note in notes:
        report.notes.append(note)
        track.note(note)


def note_notation(prompts: Iterable[str]) -> list[str]:
    """One line about A1111's notation in prompts or captions, where there is any."""
    found = list(dict.fromkeys(part for prompt in prompts for part in a1111_notation(prompt)))
    if not found:
        return []
    shown = ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
    return [
        f"{shown}: this notation of A1111 is taken as words here "
        "(instead: --lora PATH:SCALE; for the weight of a word, edit --method p2p --reweight WORD=FACTOR)"
    ]


def note_cropped(names: Sequence[str], fitted: Sequence[Fitted], track: Track, report: Report) -> None:
    """Say how much of a picture was cut away because the work needs another shape."""
    for name, picture in zip(names, fitted, strict=True):
        (width, height), (lost_width, lost_height) = picture.original_size_px, picture.cropped_px
        share, side = max((lost_width / width, "left and right"), (lost_height / height, "top and bottom"))
        if max(lost_width, lost_height) >= 1:
            shape = "x".join(map(str, picture.size_px))
            note = f"{name}: {width}x{height} px is cropped to the shape of {shape}: {share:.0%} is lost at {side}"
            track.note(note)
            if note not in report.notes:
                report.notes.append(note)


def load_pictures(names: Sequence[str], model: DiffusionModel, size: str | None) -> list[Fitted]:
    """Read and fit pictures; all take the working size of the first, cropped to its aspect ratio, never stretched."""
    fitted: list[Fitted] = []
    for name in names:
        picture = load_image(resolve_picture(name))
        first = fitted[0].size_px if fitted else None
        fitted.append(
            fit_image(
                picture,
                multiple=model.size_multiple,
                size=working_size(size) if first is None else None,
                native_px=model.native_size_px,
                aspect_of=first,
            )
        )
    return fitted


def note_size(
    name: str,
    size_px: tuple[int, int],
    working_size_px: tuple[int, int],
    asked: str | None,
    track: Track,
    report: Report,
) -> None:
    """A picture that is too large or small for the model is worked on at another size, and nobody asked for it."""
    (wide, high), (width, height) = size_px, working_size_px
    if asked is None and size_px != working_size_px:
        note = f"{name}: {wide}x{high} px is worked on at {width}x{height}, near what the model knows; or give --size"
        track.note(note)
        if note not in report.notes:  # methods that are compared share a picture
            report.notes.append(note)
