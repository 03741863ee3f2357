"""What a training leaves in its folder: the LoRA and its twin or the whole model, plot, figures, sheets of walks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smoothtool.commands.shared.session import save_report
from smoothtool.diffusion.lora import kohya_file, lora_file
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.saving import save_model
from smoothtool.figures import TrainFigures
from smoothtool.files.drawing.plots import Line, line_plot
from smoothtool.files.drawing.sheets import contact_sheet
from smoothtool.files.pictures.images import to_image
from smoothtool.files.storage.output import new_folder
from smoothtool.files.storage.records import read_records
from smoothtool.files.storage.tensors import write_tensors
from smoothtool.files.storage.writing import write_json_atomic, write_picture
from smoothtool.methods.smoothness.istd import WalkSettings, prompt_walks
from smoothtool.training.examples import Examples
from smoothtool.training.trainer import Trainer
from smoothtool.types import Files, Report, Track

if TYPE_CHECKING:
    from smoothtool.jobs import TrainJob

SHOWN_FRAMES = 9
PLOT_POINTS = 100
LOG = "training.jsonl"
LOGGED = {"step": int, "samples": int, "seconds": float, "bands": dict}
"""What every line of the log has."""
LOSSES = ("base_loss", "regulariser", "running_mean")
"""Of a step in the log; None where a step has none."""
MAY_CHANGE = {"max_steps", "steps", "guidance", "device", "model", "lora", "data"}
"""Settings that a resumed training may change: its length, its sample walks, and names whose content is compared."""


@dataclass(frozen=True)
class TrainingRun:
    """What the stations of `train` share; `prompts` are those of the sample walks."""

    job: TrainJob
    trainer: Trainer
    examples: Examples
    prompts: tuple[str, ...]
    folder: Path
    report: Report[TrainFigures]
    track: Track

    @property
    def is_main(self) -> bool:
        return bool(self.trainer.accelerator.is_main_process)


def identity(state: TrainingRun) -> dict[str, Any]:
    """Everything that decides what the next step computes."""
    settings = {key: value for key, value in state.job.settings().items() if key not in MAY_CHANGE}
    model, processes = state.trainer.model, state.trainer.accelerator.num_processes
    weights = model.identity()
    return {
        **settings,
        "model weights": weights["model"],
        "LoRA weights": weights["loras"],
        "processes": processes,
        "data content": state.examples.digest,
    }


def write_results(state: TrainingRun) -> None:
    """The LoRA at the top of the folder (or the whole model), the plot of the losses, figures and report."""
    trainer, folder, report = state.trainer, state.folder, state.report
    with trainer.averaged():
        report.files = _save_full(trainer.model, folder) if state.job.full else _save_lora(state)
    rows = read_records(folder, LOG, LOGGED)
    if rows:
        plot = line_plot(_lines(rows), "training", "step", "(means over about a hundredth of the steps)")
        write_picture(folder / "training.png", plot)
        report.files |= {"log": LOG, "plot": "training.png"}
        report.figures |= _figures(rows, state.examples)
        _tell_unresolved(state, rows)
    save_report(report, folder)


def _save_lora(state: TrainingRun) -> Files:
    unet, stem = state.trainer.model.unet, "smooth-lora" if state.job.variation_weight else "lora"
    about = {
        "smoothtool": state.report.versions["smoothtool"],
        "base_model": state.trainer.model.name,
        "steps": str(state.trainer.step),
        "lambda": str(state.job.variation_weight),
    }
    write_tensors(state.folder / f"{stem}.safetensors", *lora_file(unet, "trained", about))
    write_tensors(state.folder / f"{stem}-kohya.safetensors", *kohya_file(unet, "trained", about))
    return {"lora": f"{stem}.safetensors", "kohya": f"{stem}-kohya.safetensors"}


def _save_full(model: DiffusionModel, folder: Path) -> Files:
    """The whole model as a diffusers folder: `--model OUTPUT/model`."""
    with new_folder(folder / "model", force=True, known_by="model_index.json") as temporary:
        save_model(model, temporary, write_json_atomic)
    return {"model": "model"}


def _tell_unresolved(state: TrainingRun, rows: Sequence[dict[str, Any]]) -> None:
    """How many samples the regulariser's finite difference was checked on, and how many it was not right for."""
    if not state.job.variation_weight or state.job.gradient == "double-backward":
        return
    checked, unresolved = (sum(row.get(name, 0) for row in rows) for name in ("checked", "unresolved"))
    length = state.trainer.relative_step
    state.report.figures["difference"] = {"relative_step": length, "checked": checked, "unresolved": unresolved}
    if unresolved:
        note = (
            f"the regulariser's finite difference was not resolved for {unresolved} of the {checked} samples that were "
            "checked; those were trained without it"
        )
        state.track.note(note)


def _figures(rows: Sequence[dict[str, Any]], examples: Examples) -> TrainFigures:
    last = rows[-max(1, len(rows) // 10) :]
    known = {name: [row[name] for row in last if row[name] is not None] for name in LOSSES}
    return {
        "steps": rows[-1]["step"],
        "samples": sum(row["samples"] for row in rows),
        "pictures": sum(len(bucket) for bucket in examples.buckets),
        "last_tenth": {name: sum(values) / len(values) for name, values in known.items() if values},
        "samples_per_s": sum(row["samples"] for row in last) / sum(row["seconds"] for row in last),
        "bands": _bands(rows),
    }


def _bands(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """n, L_reg and base loss per timestep band over the last half of a training, each over what has it."""
    sums: defaultdict[tuple[str, str], float] = defaultdict(float)
    counts: defaultdict[tuple[str, str], float] = defaultdict(float)
    for row in rows[len(rows) // 2 :]:
        for band, figures in row["bands"].items():
            for name, value in figures.items():
                weight = 1 if name == "samples" else figures["samples"]
                sums[band, name] += weight * value
                counts[band, name] += weight
    found: dict[str, dict[str, float]] = {}
    for (band, name), total in sorted(sums.items()):
        found.setdefault(band, {})[name] = total if name == "samples" else total / counts[band, name]
    return found


def _lines(rows: Sequence[dict[str, Any]]) -> list[Line]:
    lines = []
    for name in LOSSES:
        known = [row for row in rows if row[name] is not None]
        width = max(1, len(known) // PLOT_POINTS)
        groups = [known[at : at + width] for at in range(0, len(known), width)]
        if known:
            values = [sorted(row[name] for row in group) for group in groups]
            steps = [group[-1]["step"] for group in groups]
            means = [sum(part) / len(part) for part in values]
            lines.append(Line(name, steps, means, [part[0] for part in values], [part[-1] for part in values]))
    return lines


def write_walks(state: TrainingRun, step: int) -> None:
    """Walks between two noises under the first captions: what smoothness looks like so far."""
    mean, _ = state.examples.posterior(state.examples.buckets[0][0])
    channels, height, width = mean.shape
    settings = WalkSettings(
        state.trainer.settings.seed,
        (channels, height, width),
        SHOWN_FRAMES,
        state.job.steps,
        state.job.guidance,
        state.job.negative,
    )
    with state.trainer.averaged():
        walks = list(prompt_walks(state.trainer.model, state.prompts, settings))
    sheet = contact_sheet(
        [[to_image(frame) for frame in walk.pixel_values] for walk in walks], row_labels=state.prompts
    )
    (state.folder / "samples").mkdir(exist_ok=True)
    write_picture(state.folder / "samples" / f"step-{step:08d}.png", sheet)
