"""`smoothtool train`: make any Stable Diffusion model smooth by a LoRA, resumable to the bit."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from platformdirs import user_cache_dir

from smoothtool.commands.inverting import working_size
from smoothtool.commands.session import describe_model, open_session, start_report, with_seed
from smoothtool.diffusion.lora import save_kohya, save_lora
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.saving import save_model
from smoothtool.errors import UsageError
from smoothtool.files.images import to_image
from smoothtool.files.output import free_space_check, new_folder, output_folder, write_text_atomic
from smoothtool.files.plots import Line, line_plot
from smoothtool.files.records import append_record, read_records
from smoothtool.files.reports import write_report
from smoothtool.files.sheets import contact_sheet
from smoothtool.methods.smoothness.istd import WalkSettings, prompt_walks
from smoothtool.training.captions import CaptionedPicture, read_captioned_folder, sticker_scenes
from smoothtool.training.checkpoints import checkpoint_paths, newest_checkpoint, write_checkpoint
from smoothtool.training.examples import Examples, bucket_sizes, prepare_examples
from smoothtool.training.trainer import Trainer, TrainSettings, TrainStep
from smoothtool.types import Report, Silent, Track

if TYPE_CHECKING:
    from smoothtool.jobs import TrainJob

STICKERS = "stickers:train"
STICKER_SCENES = 8000
SHOWN_PROMPTS, SHOWN_FRAMES = 3, 9
PLOT_POINTS = 100
LOG = "training.jsonl"
MAY_CHANGE = {"max_steps", "steps", "guidance", "device", "model", "lora", "data"}
"""Settings that a resumed training may change: its length, its sample walks, and names whose content is compared."""


@dataclass(frozen=True)
class _Run:
    """What the stations share."""

    job: TrainJob
    trainer: Trainer
    examples: Examples
    prompts: tuple[str, ...]
    folder: Path
    report: Report
    track: Track

    @property
    def is_main(self) -> bool:
        return bool(self.trainer.accelerator.is_main_process)


def run(job: TrainJob, track: Track) -> Report:
    """Train; leaves the LoRA, its kohya twin, training.jsonl, training.png, checkpoints/, report.json, job.yaml."""
    accelerator = Accelerator(mixed_precision=job.mixed_precision, cpu=job.device == "cpu")
    track = track if accelerator.is_main_process else Silent()
    job, report = _start(job)
    # 1. model and data
    started = time.perf_counter()
    with accelerator.main_process_first():
        _open_folder(job, report)
    model = open_session(_session_job(job, accelerator), track)
    _check_device(job, model)
    with accelerator.main_process_first():
        pictures, complaints = _pictures(job)
        examples = prepare_examples(model, pictures, _sizes_px(job, model), _cache_folder(), track)
    _complain([*complaints, *examples.complaints], report, track)
    # 2. trainer, from the newest checkpoint if there is one
    trainer = Trainer(model, examples, _settings(job), accelerator)
    prompts = tuple(dict.fromkeys(picture.captions[0] for picture in pictures[:SHOWN_PROMPTS]))
    state = _Run(job, trainer, examples, prompts, report.folder, report, track)
    _resume(state)
    report.seconds["load"] = time.perf_counter() - started
    # 3. train
    started = time.perf_counter()
    _train(state)
    report.seconds["train"] = time.perf_counter() - started
    # 4. results
    report.model, report.unet_calls = describe_model(model), model.counter.calls
    if accelerator.is_main_process:
        _write_results(state)
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
        return sticker_scenes(STICKER_SCENES, _cache_folder() / "icons"), []
    return read_captioned_folder(Path(job.data).expanduser())


def _sizes_px(job: TrainJob, model: DiffusionModel) -> Sequence[tuple[int, int]]:
    """One square or exact size to crop to, or buckets of one area."""
    size = working_size(job.size) or model.native_size_px
    sizes = [size] if isinstance(size, tuple) else [(size, size)]
    multiple = model.size_multiple
    if any(side % multiple for pair in sizes for side in pair):
        raise UsageError(f"--size {job.size}: training needs multiples of {multiple} pixels", f"--size {multiple * 8}")
    return bucket_sizes(size, multiple) if job.crop == "buckets" and isinstance(size, int) else sizes


def _cache_folder() -> Path:
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


def _resume(state: _Run) -> None:
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


def _identity(state: _Run) -> dict[str, Any]:
    """Everything that decides what the next step computes."""
    settings = {key: value for key, value in state.job.settings().items() if key not in MAY_CHANGE}
    model, processes = state.trainer.model, state.trainer.accelerator.num_processes
    loras = [[lora["fingerprint"], lora["scale"]] for lora in model.loras]
    return {**settings, "model weights": model.fingerprint, "LoRA weights": loras, "processes": processes,
            "data content": state.examples.digest}  # fmt: skip


def _differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [f"{key} was {then.get(key)}, is {now.get(key)}" for key in {**then, **now} if then.get(key) != now.get(key)]


def _train(state: _Run) -> None:
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
            if state.is_main and job.sample_every and step.step % job.sample_every == 0:
                _write_walks(state, step.step)
            if stopping:
                state.track.note(f"stopped after step {step.step}; go on with --resume -o {state.folder}")
                break


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
    memory = torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else None
    rate = step.samples / step.seconds
    return {**asdict(step), "samples_per_s": round(rate, 3), "peak_memory_mb": memory}


def _write_results(state: _Run) -> None:
    """The LoRA at the top of the folder (or the whole model), the plot of the losses, figures and report."""
    trainer, folder, report = state.trainer, state.folder, state.report
    with trainer.averaged():
        report.files = _save_full(trainer.model, folder) if state.job.full else _save_lora(state)
    rows = read_records(folder, LOG)
    if rows:
        line_plot(_lines(rows), "training", "step", "(means over about a hundredth of the steps)").save(
            folder / "training.png"
        )
        report.files |= {"log": LOG, "plot": "training.png"}
        report.figures |= _figures(rows, state.examples)
    write_report(report, folder)


def _save_lora(state: _Run) -> dict[str, Any]:
    unet, stem = state.trainer.model.unet, "smooth-lora" if state.job.variation_weight else "lora"
    about = {"smoothtool": state.report.versions["smoothtool"], "base_model": state.trainer.model.name,
             "steps": str(state.trainer.step), "lambda": str(state.job.variation_weight)}  # fmt: skip
    save_lora(unet, "trained", state.folder / f"{stem}.safetensors", about)
    save_kohya(unet, "trained", state.folder / f"{stem}-kohya.safetensors", about)
    return {"lora": f"{stem}.safetensors", "kohya": f"{stem}-kohya.safetensors"}


def _save_full(model: DiffusionModel, folder: Path) -> dict[str, Any]:
    """The whole model as a diffusers folder: `--model OUTPUT/model`."""
    with new_folder(folder / "model", force=False) as temporary:
        save_model(model, temporary)
    return {"model": "model"}


def _figures(rows: Sequence[dict[str, Any]], examples: Examples) -> dict[str, Any]:
    last = rows[-max(1, len(rows) // 10) :]
    names = [name for name in ("base_loss", "regulariser", "running_mean") if last[-1][name] is not None]
    return {
        "steps": rows[-1]["step"], "samples": sum(row["samples"] for row in rows),
        "pictures": sum(len(bucket) for bucket in examples.buckets),
        "last_tenth": {name: sum(row[name] for row in last) / len(last) for name in names},
        "samples_per_s": sum(row["samples"] for row in last) / sum(row["seconds"] for row in last),
        "bands": _bands(rows),
    }  # fmt: skip


def _bands(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """n, L_reg and base loss per timestep band, over the last half of the training."""
    found: dict[str, dict[str, float]] = {}
    for row in rows[len(rows) // 2 :]:
        for band, figures in row["bands"].items():
            sums = found.setdefault(band, dict.fromkeys(figures, 0.0))
            for name, value in figures.items():
                sums[name] += value if name == "samples" else value * figures["samples"]
    return {band: {name: value if name == "samples" else value / sums["samples"] for name, value in sums.items()}
            for band, sums in sorted(found.items())}  # fmt: skip


def _lines(rows: Sequence[dict[str, Any]]) -> list[Line]:
    width = max(1, len(rows) // PLOT_POINTS)
    groups = [rows[at : at + width] for at in range(0, len(rows), width)]
    lines = []
    for name in ("base_loss", "regulariser", "running_mean"):
        if rows[-1][name] is not None:
            values = [sorted(row[name] for row in group) for group in groups]
            steps = [group[-1]["step"] for group in groups]
            means = [sum(part) / len(part) for part in values]
            lines.append(Line(name, steps, means, [part[0] for part in values], [part[-1] for part in values]))
    return lines


def _write_walks(state: _Run, step: int) -> None:
    """Walks between two noises under the first captions: what smoothness looks like so far."""
    mean, _ = state.examples.posterior(state.examples.buckets[0][0])
    channels, height, width = mean.shape
    settings = WalkSettings(state.trainer.settings.seed, (channels, height, width), SHOWN_FRAMES, state.job.steps,
                            state.job.guidance)  # fmt: skip
    with state.trainer.averaged():
        walks = list(prompt_walks(state.trainer.model, state.prompts, settings))
    sheet = contact_sheet(
        [[to_image(frame) for frame in walk.pixel_values] for walk in walks], row_labels=state.prompts
    )
    (state.folder / "samples").mkdir(exist_ok=True)
    sheet.save(state.folder / "samples" / f"step-{step:08d}.png")
