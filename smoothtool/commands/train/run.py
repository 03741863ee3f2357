"""`smoothtool train`: make any Stable Diffusion model smooth by a LoRA, resumable to the bit."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list

from smoothtool.commands.shared.folders import growing_result, stopped_with
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.commands.shared.session import (
    default_name,
    describe_model,
    note_notation,
    noted,
    open_session,
    start_report,
    with_seed,
)
from smoothtool.commands.train.loop import train_to_the_end
from smoothtool.commands.train.results import LOG, LOGGED, TrainingRun, identity, write_results
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import ModelError, UsageError, first_line
from smoothtool.figures import TrainFigures
from smoothtool.files.lists.captioned import CaptionedPicture
from smoothtool.files.storage.cache import cache_folder
from smoothtool.files.storage.growing import GrowingFolder
from smoothtool.files.storage.output import free_space_check
from smoothtool.files.storage.records import read_records
from smoothtool.files.storage.writing import write_text_atomic
from smoothtool.jobs.notation import working_size
from smoothtool.readers.regular import at_home
from smoothtool.stickers.world.captioned import sticker_scenes
from smoothtool.training.captions import read_captioned_folder
from smoothtool.training.checkpoints import checkpoint_paths, newest_checkpoint
from smoothtool.training.examples import bucket_sizes, prepare_examples
from smoothtool.training.gradients import COMPILED_ERROR
from smoothtool.training.settings import TrainSettings
from smoothtool.training.shards import find_shards, read_shards
from smoothtool.training.trackers import check_tracker
from smoothtool.training.trainer import Trainer
from smoothtool.types import Report, Silent, Track
from smoothtool.weights.settings import results_root

if TYPE_CHECKING:
    from smoothtool.jobs import TrainJob

STICKERS = "stickers:train"
STICKER_SCENES = 8000
SHOWN_PROMPTS = 3


def run(job: TrainJob, track: Track, pool: ModelPool | None = None) -> Report[TrainFigures]:
    """Train; leaves the LoRA, its kohya twin, training.jsonl, training.png, checkpoints/, report.json, job.yaml."""
    _check_precision(job)
    accelerator = _accelerator(job)
    track = track if accelerator.is_main_process else Silent()
    check_tracker(job.tracker)
    job, report, place = _start(job)
    track = noted(job, report, track)
    # 1. model and data; what is wrong with them is reported before any folder is made or touched
    started = time.perf_counter()
    with accelerator.main_process_first():
        pictures, complaints = _pictures(job)
    model = open_session(_session_job(job, accelerator), track, pool or ModelPool())
    _check_device(job, model)
    with accelerator.main_process_first():
        examples = prepare_examples(model, pictures, _sizes_px(job, model), cache_folder("training"), track)
    _complain([*complaints, *examples.complaints], report, track)
    for note in (*examples.notes, *note_notation(caption for picture in pictures for caption in picture.captions)):
        track.note(note)
    trainer = Trainer(model, examples, _settings(job), accelerator)
    prompts = tuple(dict.fromkeys(picture.captions[0] for picture in pictures[:SHOWN_PROMPTS]))
    with _opened(place, accelerator) as folder, stopped_with(lambda: _kept(folder)):
        report.folder = folder.parent if place.begun else folder
        _train(TrainingRun(job, trainer, examples, prompts, folder, report, track), started)
        accelerator.wait_for_everyone()
    return report


def _train(state: TrainingRun, started: float) -> None:
    report, model = state.report, state.trainer.model
    # 2. from the newest checkpoint if there is one
    _resume(state)
    _check_compiled(state)
    report.seconds["load"] = time.perf_counter() - started
    # 3. train
    started = time.perf_counter()
    train_to_the_end(state)
    report.seconds["train"] = time.perf_counter() - started
    # 4. results
    report.model, report.unet_calls = describe_model(model), model.counter.calls
    if state.is_main:
        write_results(state)


def _start(job: TrainJob) -> tuple[TrainJob, Report[TrainFigures], GrowingFolder]:
    """The job with its seed, its report, and its folder: a drawn seed and a chosen folder hold for all processes.

    A resumed training keeps its folder and its seed where the job names none. With --force, one is begun again beside
    what it will replace.
    """
    if job.resume:
        job = job.model_copy(update={"output": job.output or results_root() / default_name(job.command, [job.data])})
    report = start_report(job, [job.data])
    report.folder = Path(broadcast_object_list([str(report.folder)])[0])
    place = growing_result(report, job, _is_training, force=job.force and not job.resume)
    if _is_training(place.place) and not (job.resume or job.force):
        raise UsageError(f"{report.folder}: holds an earlier training", "--resume to go on, or --force to begin again")
    found = newest_checkpoint(place.work) if job.resume and job.seed is None else None
    job = with_seed(job.model_copy(update={"seed": found[1]["identity"]["seed"]}) if found else job)
    job = job.model_copy(update={"seed": broadcast_object_list([job.seed])[0]})
    report.job["seed"] = job.seed
    return job, report, place


def _is_training(folder: Path) -> bool:
    return bool(checkpoint_paths(folder)) or (folder / LOG).is_file()


@contextmanager
def _opened(place: GrowingFolder, accelerator: Accelerator) -> Iterator[Path]:
    """The folder to work in, for all processes; one of them makes it, and no other training may be there."""
    with place.opened(alone=True) if accelerator.is_main_process else nullcontext() as folder:
        yield Path(broadcast_object_list([str(folder)])[0])


def _kept(folder: Path) -> str:
    """What a training that was stopped leaves; how to go on is part of another message."""
    newest = next(iter(checkpoint_paths(folder)), None)
    return f"the checkpoint after step {newest.stem.rpartition('-')[2].lstrip('0')} is kept" if newest else ""


def _session_job(job: TrainJob, accelerator: Accelerator) -> TrainJob:
    """The base model in float32, without the LoRA it comes with, on this process's device."""
    update: dict[str, Any] = {"lora": job.lora or ["none"]}
    if job.dtype == "auto":
        update["dtype"] = "float32"
    if job.device == "auto":
        update["device"] = str(accelerator.device)
    return job.model_copy(update=update)


def _accelerator(job: TrainJob) -> Accelerator:
    """A batch may train in one precision after another, which accelerate refuses while it remembers the first."""
    if AcceleratorState._shared_state and AcceleratorState().mixed_precision != job.mixed_precision:
        AcceleratorState._reset_state()
    return Accelerator(mixed_precision=job.mixed_precision, cpu=job.device == "cpu")


def _check_precision(job: TrainJob) -> None:
    if job.mixed_precision == "fp16" and (job.device == "cpu" or not torch.cuda.is_available()):
        raise UsageError("--mixed-precision fp16 needs a CUDA device", "--mixed-precision no")
    if job.dtype == "float16" and job.mixed_precision != "fp16":
        raise UsageError("--dtype float16 alone loses small gradients", "--mixed-precision fp16, which scales them")
    if job.dtype == "bfloat16" and job.variation_weight and job.gradient != "double-backward":
        raise UsageError("--dtype bfloat16 is too coarse for the regulariser's finite differences", "--dtype float32")


def _check_device(job: TrainJob, model: DiffusionModel) -> None:
    if job.compile and not shutil.which(os.environ.get("CXX", "g++")):
        raise UsageError("--compile needs a C++ compiler, and there is no g++", "without --compile, or install g++")
    if job.full and model.unet.dtype != torch.float32:
        raise UsageError("--full trains the UNet's own weights, which must be float32", "--dtype float32")


def _pictures(job: TrainJob) -> tuple[list[CaptionedPicture], list[str]]:
    if job.data == STICKERS:
        return sticker_scenes(STICKER_SCENES, cache_folder("training") / "icons"), []
    shards = find_shards(job.data)
    if shards:
        return read_shards(shards)
    return read_captioned_folder(at_home(job.data))


def _sizes_px(job: TrainJob, model: DiffusionModel) -> Sequence[tuple[int, int]]:
    """One square or exact size to crop to, or buckets of one area."""
    size = working_size(job.size) or model.native_size_px
    sizes = [size] if isinstance(size, tuple) else [(size, size)]
    multiple = model.size_multiple
    if any(side % multiple for pair in sizes for side in pair):
        raise UsageError(f"--size {job.size}: training needs multiples of {multiple} pixels", f"--size {multiple * 8}")
    return bucket_sizes(size, multiple) if job.crop == "buckets" and isinstance(size, int) else sizes


def _complain(complaints: Sequence[str], report: Report[TrainFigures], track: Track) -> None:
    """Every unusable picture stands in the report; the screen shows the first few."""
    report.figures["skipped"] = len(complaints)
    for complaint in complaints[:5]:
        track.note(f"skipped: {complaint}")
    if len(complaints) > 5:
        report.notes += [f"skipped: {complaint}" for complaint in complaints[5:]]
        track.note(f"skipped {len(complaints)} in all; report.json names them")


def _check_compiled(state: TrainingRun) -> None:
    """A compiled UNet whose gradient is wrong is not trained with, and a note says so."""
    if not (state.job.compile and state.job.variation_weight):
        return
    error = state.trainer.check_compiled()
    state.report.figures["compiled_gradient_error"] = error
    if error > COMPILED_ERROR:
        note = f"--compile gets the regulariser's gradient wrong by {error:.0%} on this machine: going on without it"
        state.track.note(note)


def _settings(job: TrainJob) -> TrainSettings:
    return TrainSettings(**{field.name: getattr(job, field.name) for field in fields(TrainSettings)})


def _resume(state: TrainingRun) -> None:
    """Go on from the newest checkpoint, if its settings are today's; log lines after it are dropped."""
    bytes_each = sum(p.numel() for p in state.trainer.parameters) * 4 * (4 if state.job.ema else 3)
    free_space_check(state.folder, 4 * bytes_each)
    found = newest_checkpoint(state.folder) if state.job.resume else None
    if found is None:
        if state.is_main:  # of a run that was stopped before its first checkpoint
            (state.folder / LOG).unlink(missing_ok=True)
        return
    tensors, facts = found
    changes = _differences(facts["identity"], identity(state))
    if changes and not state.job.force:
        raise UsageError(
            f"{state.report.folder}: the training was begun otherwise: {'; '.join(changes)}", "--force to go on anyway"
        )
    try:
        state.trainer.restore(tensors, facts)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        what = f"{state.report.folder}: its newest checkpoint is of another smoothtool, and lacks {first_line(error)}"
        raise ModelError(what, "--force without --resume to begin again") from error
    state.track.note(f"going on after step {state.trainer.step}")
    if state.is_main:
        kept = [row for row in read_records(state.folder, LOG, LOGGED) if row["step"] <= state.trainer.step]
        write_text_atomic(state.folder / LOG, "".join(f"{json.dumps(row)}\n" for row in kept))
    state.trainer.accelerator.wait_for_everyone()


def _differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [f"{key} was {then.get(key)}, is {now.get(key)}" for key in {**then, **now} if then.get(key) != now.get(key)]
