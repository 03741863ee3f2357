"""What every command does first: choose the model, load it with its LoRAs, fix the seed."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from smoothtool.diffusion.lora import load_lora
from smoothtool.diffusion.model import DiffusionModel, load_model
from smoothtool.errors import UsageError
from smoothtool.types import Report, Track
from smoothtool.weights.places import resolve_model

if TYPE_CHECKING:
    from smoothtool.jobs import ModelJob


def open_session(job: ModelJob, track: Track) -> DiffusionModel:
    """The model of the job with its LoRAs: the model's default one first, unless `lora: none`."""
    place = resolve_model(job.model)
    if place.notice:
        track.note(place.notice)
    model = load_model(place.folder, place.name, device=job.device, dtype=job.dtype)
    wanted = [parse_lora(text) for text in job.lora if text != "none"]
    if place.default_lora is not None and "none" not in job.lora:
        wanted.insert(0, (place.default_lora, 1.0))
    for path, scale in wanted:
        load_lora(model, path, scale)
    return model


def parse_lora(text: str) -> tuple[Path, float]:
    """`PATH[:SCALE]`; a colon that is part of the path (a Windows drive) is kept."""
    path, colon, scale = text.rpartition(":")
    if not colon:
        return Path(text), 1.0
    try:
        return Path(path), float(scale)
    except ValueError:
        if Path(text).exists():
            return Path(text), 1.0
        raise UsageError(f"--lora {text}: {scale!r} is not a number", "--lora PATH:0.8") from None


def concrete_seed(seed: int | None) -> int:
    """The seed that was asked for, or a fresh one that fits 32 bits, to be recorded."""
    return secrets.randbelow(2**32) if seed is None else seed


def describe_model(model: DiffusionModel) -> dict[str, object]:
    """The model block of a report."""
    return {
        "name": model.name,
        "fingerprint": model.fingerprint,
        "loras": model.loras,
        "device": str(model.device),
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def note_cut_prompts(model: DiffusionModel, prompts: list[str], track: Track, report: Report) -> None:
    """Say which words the text encoder cannot see."""
    for prompt in dict.fromkeys(prompts):
        if cut := model.cut_from(prompt):
            note = f"the prompt is over {model.tokenizer.model_max_length - 2} tokens, cut from: {cut!r}"
            report.notes.append(note)
            track.note(note)
