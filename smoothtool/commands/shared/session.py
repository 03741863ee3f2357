"""What commands do first and last: fix the seed, load the model with its LoRAs; write down which model it was."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from smoothtool.commands.shared.loras import lora_files
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.diffusion.economies import ECONOMIES
from smoothtool.diffusion.loading import computes_in, load_model
from smoothtool.diffusion.lora import load_lora
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.single_file import load_single_file
from smoothtool.files.pictures.images import Fitted, fit_image, load_image
from smoothtool.files.pictures.notes import PictureNotes
from smoothtool.files.pictures.provenance import check_format
from smoothtool.files.storage.inversions import is_inversion, load_inversion
from smoothtool.files.storage.names import safe_name
from smoothtool.files.storage.reports import versions, write_report
from smoothtool.jobs import ModelJob, ReportJob
from smoothtool.jobs.notation import a1111_notation, working_size
from smoothtool.readers.regular import at_home
from smoothtool.recipe.documents import job_document
from smoothtool.types import Inversion, ModelRecord, Report, Track
from smoothtool.weights.models import ModelLocation, resolve_model
from smoothtool.weights.sample_pictures import resolve_picture, sample_name
from smoothtool.weights.settings import results_root

if TYPE_CHECKING:
    from PIL import Image

AREA_FACTOR = 2.25
"""So many times larger or smaller than in training, pictures are still drawn well: 768 px by SD 1.5, 683 by SDXL."""
Job = TypeVar("Job", bound=ReportJob)
T = TypeVar("T")


def open_session(job: ModelJob, track: Track, pool: ModelPool) -> DiffusionModel:
    """The job's model from the pool, with its LoRAs: the model's default one first, unless `lora: none`."""
    model = pool.open(job, lambda: _load_with_loras(job, track))
    model.economies.tell(track.note)
    if not computes_in(model.dtype, model.device):
        track.note(f"this CPU has no instructions for {job.dtype}, which may take many times as long as float32")
    return model


def _load_with_loras(job: ModelJob, track: Track) -> DiffusionModel:
    place = resolve_model(job.model)
    if place.notice:
        track.note(place.notice)
    named = lora_files(job.lora)  # one that is missing is reported before a model is loaded, which takes long
    model = _load(place, job)
    if place.default_lora is not None and "none" not in job.lora:
        load_lora(model, place.default_lora)
    for path, scale in named:
        load_lora(model, path, scale)
    return model


def _load(place: ModelLocation, job: ModelJob) -> DiffusionModel:
    how: Any = {"device": job.device, "dtype": job.dtype, "economies": [one for one in ECONOMIES if getattr(job, one)]}
    if place.single_file is not None:
        return load_single_file(place.single_file, place.name, place.tokenizer, **how)
    assert place.folder is not None
    return load_model(place.folder, place.name, **how)


def begin(job: Job, inputs: Sequence[str], track: Track) -> tuple[Job, Report[Any], Track]:
    """The job with its seed, its report, and the track to use from here on, whose notes stand in the report as well.

    inputs  what the folder of the results is named after, where the job does not say
    Raises: UsageError for a format of pictures that cannot be written here.
    """
    check_format(getattr(job, "format", "png"))
    job = with_seed(job)
    report = start_report(job, inputs)
    return job, report, noted(job, report, track)


def noted(job: ReportJob, report: Report, track: Track) -> Track:
    """The track with every note in the report, too; the first ones say why defaults are not smoothtool's own."""
    both = ReportedTrack(report, track)
    for key, origin in job.origins.items():
        both.note(f"{key} {getattr(job, key)}: {origin}")
    return both


class ReportedTrack:
    """A track whose notes also stand in the report, each once: the one way for a note to get there."""

    def __init__(self, report: Report, track: Track) -> None:
        self.report, self.track = report, track

    def __call__(self, items: Iterable[T], description: str, total: int) -> Iterable[T]:
        return self.track(items, description, total)

    def note(self, text: str) -> None:
        if text not in self.report.notes:
            self.report.notes.append(text)
        self.track.note(text)

    def tell(self, text: str) -> None:
        self.track.tell(text)

    def status(self, text: str) -> None:
        self.track.status(text)


def finish(report: Report, model: DiffusionModel, folder: Path, pool: ModelPool) -> None:
    """Add the model, its calls, and the time that precomputing took; write report and recipe."""
    report.model, report.unet_calls = describe_model(model), model.counter.calls
    if pool.precompute_s:
        report.seconds["together"] = pool.precompute_s
    save_report(report, folder)


def save_report(report: Report, folder: Path) -> None:
    """Write report.json, and job.yaml, which repeats it, into the folder that is being filled."""
    write_report(report, folder, job_document(report.command, report.job))


@dataclass(frozen=True)
class SourceFile:
    """What a command starts from, read once: a picture, upright in RGB, or an inversion with its header."""

    name: str
    picture: Image.Image | None = None
    inversion: tuple[Inversion, dict[str, Any]] | None = None


def open_sources(names: Sequence[str], track: Track) -> list[SourceFile]:
    """Read pictures and inversion files before a model is loaded, so that a bad one is reported at once.

    Notes say what has to be known about them, for example that the first frame of an animation is used.
    Raises: InputError for a picture, ModelError for an inversion file.
    """
    files = [
        SourceFile(name, inversion=load_inversion(at_home(name)))
        if is_inversion(name)
        else SourceFile(name, picture=load_image(resolve_picture(name)))
        for name in names
    ]
    _note_pictures({file.name: file.picture for file in files if file.picture is not None}, track)
    return files


def read_picture(name: str, track: Track) -> Image.Image:
    """Read one picture where no inversion file will do, with the notes of `open_sources`.

    Raises: InputError.
    """
    picture = load_image(resolve_picture(name))
    _note_pictures({name: picture}, track)
    return picture


def _note_pictures(pictures: Mapping[str, Image.Image], track: Track) -> None:
    notes = PictureNotes()
    for name, picture in pictures.items():
        notes.add(resolve_picture(name).name, picture)
    for line in notes.lines():
        track.note(line)


def with_seed(job: Job) -> Job:
    """The job with the seed that was asked for, or a fresh one that fits 32 bits, to be recorded."""
    drawn = {"seed": secrets.randbelow(2**32)}
    return job.model_copy(update=drawn) if isinstance(job, ModelJob) and job.seed is None else job


def start_report(job: ReportJob, inputs: Sequence[str]) -> Report[Any]:
    """The report with its folder named (after the inputs, unless the job says) and the versions noted."""
    folder = job.output or next_free(results_root() / default_name(job.command, inputs))
    kept = {path: str(folder.absolute() / "inputs" / name) for path, name in job.lent.items()}
    settings = {key: _renamed(value, kept) for key, value in job.settings().items()}
    return Report(command=job.command, folder=folder, job=settings, versions=versions())


def default_name(command: str, inputs: Sequence[str]) -> str:
    """`edit-fox`: the folder of a result that nobody named, on one line and not too long, whatever the inputs."""
    return safe_name("-".join([command, *(Path(sample_name(text) or text).stem for text in inputs)]))


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    """An option whose pictures, by their paths, have other names from here on."""
    if isinstance(value, list):
        return [_renamed(part, names) for part in value]
    return names.get(value, value) if isinstance(value, str) else value


def next_free(folder: Path) -> Path:
    """A generated name, or the first of it with -2, -3, … that does not exist: a default never overwrites."""
    stem, dash, number = folder.name.rpartition("-")
    name = stem if dash and number.isdecimal() and folder.with_name(stem).exists() else folder.name
    names = chain([name], (f"{name}-{number}" for number in count(2)))
    return next(folder.with_name(candidate) for candidate in names if not folder.with_name(candidate).exists())


def describe_model(model: DiffusionModel) -> ModelRecord:
    """The model block of a report."""
    return {
        "name": model.name,
        "fingerprint": model.fingerprint,
        "loras": model.loras,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
        "economies": list(model.economies.active),
    }


def note_prompts(model: DiffusionModel, prompts: list[str], track: Track) -> None:
    """Note which words the text encoder cannot see, and what it sees as words although it is meant otherwise."""
    notes = []
    for prompt in dict.fromkeys(prompts):
        if cut := model.cut_from(prompt):
            notes.append(f"the prompt is over {model.tokenizer.model_max_length - 2} tokens, cut from: {cut!r}")
    notes += note_notation(prompts)
    for note in notes:
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


def note_cropped(names: Sequence[str], fitted: Sequence[Fitted], track: Track) -> None:
    """Note how much of a picture was cut away because the work needs another shape."""
    for name, picture in zip(names, fitted, strict=True):
        (width, height), (lost_width, lost_height) = picture.original_size_px, picture.cropped_px
        share, side = max((lost_width / width, "left and right"), (lost_height / height, "top and bottom"))
        if max(lost_width, lost_height) >= 1:
            shape = "x".join(map(str, picture.size_px))
            note = f"{name}: {width}x{height} px is cropped to the shape of {shape}: {share:.0%} is lost at {side}"
            track.note(note)


def fit_pictures(pictures: Sequence[Image.Image], model: DiffusionModel, size: str | None) -> list[Fitted]:
    """Fit pictures for the model: all take the working size of the first, cropped to its shape, never stretched."""
    fitted: list[Fitted] = []
    for picture in pictures:
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
    model: DiffusionModel,
    track: Track,
) -> None:
    """A picture that is too large or small for the model is worked on at another size, and nobody asked for it; or it
    is worked on at a size that the model was not trained for.
    """
    (wide, high), (width, height) = size_px, working_size_px
    if asked is None and size_px != working_size_px:
        note = f"{name}: {wide}x{high} px is worked on at {width}x{height}, near what the model knows; or give --size"
        track.note(note)
    note_far_size(working_size_px, model, track)


def note_far_size(size_px: tuple[int, int], model: DiffusionModel, track: Track) -> None:
    """Note a (width, height) whose area is far from what the model was trained on."""
    native, (width, height) = model.native_size_px, size_px
    if not 1 / AREA_FACTOR <= width * height / native**2 <= AREA_FACTOR:
        track.note(
            f"{width}x{height} px is far from the {native}x{native} px that the model was trained for, and will come "
            f"out worse; --size {native} is near"
        )
