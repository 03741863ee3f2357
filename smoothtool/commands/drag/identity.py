"""Teach the model one picture before dragging in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from PIL import Image

from smoothtool.commands.drag.stages import fit_picture
from smoothtool.commands.shared.identity import Fit, learned_identity
from smoothtool.diffusion.lora import load_lora, remove_lora
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.jobs import identity_steps
from smoothtool.types import Track

if TYPE_CHECKING:
    from smoothtool.jobs import DragJob


@contextmanager
def identity_lora(
    model: DiffusionModel, picture: Image.Image, prompt: str, job: DragJob, track: Track
) -> Iterator[None]:
    """The model taught this picture, for as long as the block lasts; taken from the cache when it was before."""
    count = identity_steps(job.method, job.lora_steps)
    if count == 0:
        yield
        return
    fitted = fit_picture(model, picture, job)
    info = learned_identity(model, fitted, prompt, Fit(count), track, partial(load_lora, model))
    try:
        yield
    finally:
        remove_lora(model, info["adapter"])
