"""`smoothtool train`: make any Stable Diffusion model smooth by a LoRA, resumable to the bit."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from platformdirs import user_cache_dir

from smoothtool.commands.inverting import working_size
from smoothtool.commands.session import describe_model, open_session, start_report, with_seed
from smoothtool.commands.training_results import LOG, TrainingRun, write_results, write_walks
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import UsageError
from smoothtool.files.output import free_space_check, output_folder, write_text_atomic
from smoothtool.files.records import append_record, read_records
from smoothtool.training.captions import CaptionedPicture, read_captioned_folder, sticker_scenes
from smoothtool.training.checkpoints import checkpoint_paths, newest_checkpoint, write_checkpoint
from smoothtool.training.examples import bucket_sizes, prepare_examples
from smoothtool.training.trainer import Trainer, TrainSettings, TrainStep
from smoothtool.types import Report, Silent, Track

if TYPE_CHECKING:
    from smoothtool.jobs import TrainJob

STICKERS = "stickers:train"
STICKER_SCENES = 8000
SHOWN_PROMPTS = 3
MAY_CHANGE = {"max_steps", "steps", "guidance", "device", "model", "lora", "data"}
"""Settings that a resumed training may change: its length, its sample walks, and names whose content is compared."""


def run(job: TrainJob, track: Track) -> Report:
    """Train; leaves the LoRA, its kohya twin, training.jsonl, training.png, checkpoints/, report.json, job.yaml."""
    accelerator = Accelerator(mixed_precision=job.mixed_precision, cpu=job.device == "cpu")
    track = track if accelerator.is_main_process else Silent()
    job, report = _start(job)
    # 1. model and data
    started = time.perf_counter()
    with accelerator.main_process_first():
        pictures, complaints = _pictures(job)  # first of all: without data no folder is made, and none is cleared
        _open_folder(job, report)
    model = open_session(_session_job(job, accelerator), track)
    _check_device(job, model)
    with accelerator.main_process_first():
        examples = prepare_examples(model, pictures, _sizes_px(job, model), cache_folder(), track)
    _complain([*complaints, *examples.complaints], report, track)
    # 2. trainer, from the newest checkpoint if there is one
    trainer = Trainer(model, examples, _settings(job), accelerator)
    prompts = tuple(dict.fromkeys(picture.captions[0] for picture in pictures[:SHOWN_PROMPTS]))
    state = TrainingRun(job, trainer, examples, prompts, report.folder, report, track)
    _resume(state)
    report.seconds["load"] = time.perf_counter() - started
    # 3. train
    started = time.perf_counter()
    _train(state)
    report.seconds["train"] = time.perf_counter() - started
    # 4. results
    report.model, report.unet_calls = describe_model(model), model.counter.calls
    if accelerator.is_main_process:
        write_results(state)
    accelerator.wait_for_everyone()
    return report


def _start(job: TrainJob) -> tuple[TrainJob, Report]:
    """The job with its seed, and its report: a drawn seed and a chosen folder hold for all processes.

    A resumed training keeps its folder and its seed where the job names none.
    """
    if job.resume:
        output = job.output or Path("smoothtool-out") / f"train-{Path(job.data).stem}".replace(":", "-")
        found = newest_checkpoint(output.expanduser()) if job.seed is None else None
        seed = found[1]["identity"]["seed"] if found else job.seed
        job = job.model_copy(update={"output": output, "seed": seed})
    job = with_seed(job)
    report = start_report(job, [job.data])
    shared = broadcast_object_list([job.seed, str(report.folder)])
    job = job.model_copy(update={"seed": shared[0], "output": Path(shared[1])})
    return job, start_report(job, [job.data])


def _session_job(job: TrainJob, accelerator: Accelerator) -> TrainJob:
    """The base model in float32, without the LoRA it comes with, on this process's device."""
    update: dict[str, Any] = {"lora": job.lora or ["none"]}
    if job.dtype == "auto":
        update["dtype"] = "float32"
    if job.device == "auto":
        update["device"] = str(accelerator.device)
    return job.model_copy(update=update)


def _check_device(job: TrainJob, model: DiffusionModel) -> None:
    if job.mixed_precision == "fp16" and model.device.type != "cuda":
        raise UsageError(f"--mixed-precision fp16 needs a CUDA device, not {model.device}", "--mixed-precision no")
    if job.full and model.unet.dtype != torch.float32:
        raise UsageError("--full trains the UNet's own weights, which must be float32", "--dtype float32")


def _pictures(job: TrainJob) -> tuple[list[CaptionedPicture], list[str]]:
    if job.data == STICKERS:
        return sticker_scenes(STICKER_SCENES, cache_folder() / "icons"), []
    return read_captioned_folder(Path(job.data).expanduser())


def _sizes_px(job: TrainJob, model: DiffusionModel) -> Sequence[tuple[int, int]]:
    """One square or exact size to crop to, or buckets of one area."""
    size = working_size(job.size) or model.native_size_px
    sizes = [size] if isinstance(size, tuple) else [(size, size)]
    multiple = model.size_multiple
    if any(side % multiple for pair in sizes for side in pair):
        raise UsageError(f"--size {job.size}: training needs multiples of {multiple} pixels", f"--size {multiple * 8}")
    return bucket_sizes(size, multiple) if job.crop == "buckets" and isinstance(size, int) else sizes


def cache_folder() -> Path:
    return Path(os.environ.get("SMOOTHTOOL_CACHE") or user_cache_dir("smoothtool")).expanduser() / "training"


def _complain(complaints: Sequence[str], report: Report, track: Track) -> None:
    """Every unusable picture is counted in the report; the first few are also told."""
    report.figures["skipped"] = len(complaints)
    report.notes += [f"skipped: {complaint}" for complaint in complaints]
    for complaint in complaints[:5]:
        track.note(f"skipped: {complaint}")
    if len(complaints) > 5:
        track.note(f"skipped {len(complaints)} in all; report.json names them")


def _settings(job: TrainJob) -> TrainSettings:
    return TrainSettings(**{field.name: getattr(job, field.name) for field in fields(TrainSettings)})


def _open_folder(job: TrainJob, report: Report) -> None:
    """A new folder, or with --resume one of an earlier training; --force without it begins again."""
    folder = report.folder.expanduser().resolve()
    ours = bool(checkpoint_paths(folder)) or (folder / LOG).is_file()
    if not (ours and job.resume):
        if ours and job.force:
            _clear(folder)
        elif ours:
            raise UsageError(
                f"{report.folder}: holds an earlier training", "--resume to go on, or --force to begin again"
            )
        else:
            folder = output_folder(report.folder, force=False)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be created ({error.strerror})", "another folder with -o") from error
    report.folder = folder


def _clear(folder: Path) -> None:
    for name in ("checkpoints", "model", "samples"):
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / LOG).unlink(missing_ok=True)


def _resume(state: TrainingRun) -> None:
    """Go on from the newest checkpoint, if its settings are today's; log lines after it are dropped."""
    bytes_each = sum(p.numel() for p in state.trainer.parameters) * 4 * (4 if state.job.ema else 3)
    free_space_check(state.folder, 4 * bytes_each)
    found = newest_checkpoint(state.folder) if state.job.resume else None
    if found is None:
        return
    tensors, facts = found
    changes = _differences(facts["identity"], _identity(state))
    if changes and not state.job.force:
        raise UsageError(
            f"{state.folder}: the training was begun otherwise: {'; '.join(changes)}", "--force to go on anyway"
        )
    state.trainer.restore(tensors, facts)
    state.track.note(f"going on after step {state.trainer.step}")
    if state.is_main:
        kept = [row for row in read_records(state.folder, LOG) if row["step"] <= state.trainer.step]
        write_text_atomic(state.folder / LOG, "")
        for row in kept:
            append_record(state.folder / LOG, row)
    state.trainer.accelerator.wait_for_everyone()


def _identity(state: TrainingRun) -> dict[str, Any]:
    """Everything that decides what the next step computes."""
    settings = {key: value for key, value in state.job.settings().items() if key not in MAY_CHANGE}
    model, processes = state.trainer.model, state.trainer.accelerator.num_processes
    loras = [[lora["fingerprint"], lora["scale"]] for lora in model.loras]
    return {**settings, "model weights": model.fingerprint, "LoRA weights": loras, "processes": processes,
            "data content": state.examples.digest}  # fmt: skip


def _differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [f"{key} was {then.get(key)}, is {now.get(key)}" for key in {**then, **now} if then.get(key) != now.get(key)]


def _train(state: TrainingRun) -> None:
    """Step, log, checkpoint. The first Ctrl-C finishes the step and writes a checkpoint, the second stops at once."""
    trainer, job = state.trainer, state.job
    remaining = job.max_steps - trainer.step
    with _stopped_by_signals() as stop:
        for step in state.track(trainer.steps(), "training", max(0, remaining)):
            if state.is_main:
                append_record(state.folder / LOG, _record(step))
            stopping = _any_process(trainer, bool(stop))
            last = step.step == job.max_steps or stopping
            if state.is_main and (last or step.step % job.checkpoint_every == 0):
                tensors, facts = trainer.state()
                write_checkpoint(state.folder, step.step, tensors, {**facts, "identity": _identity(state)})
                state.track.note(_told(step))
            if state.is_main and job.sample_every and step.step % job.sample_every == 0:
                write_walks(state, step.step)
            if stopping:
                state.track.note(f"stopped after step {step.step}; go on with --resume -o {state.folder}")
                break


def _told(step: TrainStep) -> str:
    """One line at every checkpoint."""
    figures = {"loss": step.base_loss, "regulariser": step.regulariser, "running mean": step.running_mean}
    known = ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if value is not None)
    memory = _peak_memory_mb()
    return f"step {step.step}: {known}, {step.samples / step.seconds:.3g} samples/s" + (
        f", {memory:.0f} MB at most" if memory else ""
    )


def _any_process(trainer: Trainer, stop: bool) -> bool:
    """All processes leave after the same step, or those that stay would wait for ever."""
    if trainer.accelerator.num_processes == 1:
        return stop
    return bool(trainer.accelerator.gather(torch.tensor([stop], device=trainer.accelerator.device)).any())


@contextmanager
def _stopped_by_signals() -> Iterator[list[int]]:
    """Signals arrive in the list handed out; one that did is raised again at the end, as it would have been."""
    arrived: list[int] = []
    watched = (signal.SIGINT, signal.SIGTERM)

    def note(number: int, frame: Any) -> None:
        arrived.append(number)
        for each in watched:
            signal.signal(each, before[each])

    try:
        before = {each: signal.signal(each, note) for each in watched}
    except ValueError:  # not in the main thread, where no signal arrives either
        before = {}
    try:
        yield arrived
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    if arrived:
        signal.raise_signal(arrived[0])


def _record(step: TrainStep) -> dict[str, Any]:
    rate = round(step.samples / step.seconds, 3)
    return {**asdict(step), "samples_per_s": rate, "peak_memory_mb": _peak_memory_mb()}


def _peak_memory_mb() -> float | None:
    return torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else None
