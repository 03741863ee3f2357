"""Teach the model one picture before dragging in it, or remember that it was taught before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image

from smoothtool.commands.drag.stages import fit_picture
from smoothtool.diffusion.lora import load_lora, remove_lora, save_lora
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import ModelError
from smoothtool.files.storage.cache import cache_key
from smoothtool.files.storage.identity_cache import identity_path
from smoothtool.jobs import identity_steps
from smoothtool.methods.drag.identity_lora import IDENTITY, fit_identity_lora
from smoothtool.types import Track
from smoothtool.version import __version__

if TYPE_CHECKING:
    from smoothtool.jobs import DragJob


@contextmanager
def identity_lora(
    model: DiffusionModel, picture: Image.Image, prompt: str, job: DragJob, track: Track
) -> Iterator[None]:
    """The model taught this picture, for as long as the block lasts; taken from the cache when it was before.

    The fit's randomness does not depend on --seed, so that one fit serves every drag in the picture.
    """
    count = identity_steps(job.method, job.lora_steps)
    if count == 0:
        yield
        return
    fitted = fit_picture(model, picture, job)
    loras = [[lora["fingerprint"], lora["scale"]] for lora in model.loras]
    settings = {"model": model.fingerprint, "loras": loras, "prompt": prompt, "steps": count,
                "dtype": str(model.dtype), "version": __version__}  # fmt: skip
    path = identity_path(cache_key(fitted.pixel_values, settings))
    if not _load_identity(model, path):
        latents, text = model.encode_images(fitted.pixel_values), model.encode_prompts([prompt])
        steps = fit_identity_lora(model, latents, text, count, torch.Generator().manual_seed(0))
        try:
            for _ in track(steps, "learning the picture", count):
                pass
            save_lora(model.unet, IDENTITY, path)
        finally:
            remove_lora(model, IDENTITY)
        load_lora(model, path)
    try:
        yield
    finally:
        remove_lora(model, model.loras[-1]["adapter"])


def _load_identity(model: DiffusionModel, path: Path) -> bool:
    """A damaged cache entry counts as none."""
    if not path.is_file():
        return False
    try:
        load_lora(model, path)
    except ModelError:
        path.unlink(missing_ok=True)
        return False
    return True
