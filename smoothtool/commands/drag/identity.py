"""Teach the model one picture before dragging in it, or remember that it was taught before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from PIL import Image

from smoothtool.commands.drag.stages import fit_picture
from smoothtool.diffusion.lora import Contents, load_lora, lora_file, remove_lora
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import ModelError, StorageError
from smoothtool.files.pictures.fitting import Fitted
from smoothtool.files.storage.cache import cache_key
from smoothtool.files.storage.identity_cache import IdentityCache
from smoothtool.files.storage.tensors import write_tensors
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
    settings = {
        "model": model.fingerprint,
        "loras": loras,
        "prompt": prompt,
        "steps": count,
        "dtype": str(model.dtype),
        "version": __version__,
    }
    cache, key = IdentityCache(), cache_key(fitted.pixel_values, settings)
    if not _load_identity(model, cache.get(key)):
        contents = _learned(model, fitted, prompt, count, track)
        with _kept(cache, key, contents, track) as path:
            load_lora(model, path)
    try:
        yield
    finally:
        remove_lora(model, model.loras[-1]["adapter"])


def _load_identity(model: DiffusionModel, path: Path | None) -> bool:
    """An entry that does not fit the model after all counts as none."""
    if path is None:
        return False
    try:
        load_lora(model, path)
    except ModelError:
        return False
    return True


def _learned(model: DiffusionModel, fitted: Fitted, prompt: str, count: int, track: Track) -> Contents:
    """The identity LoRA as a file holds it; the model is as before."""
    latents, text = model.encode_images(fitted.pixel_values), model.encode_prompts([prompt])
    steps = fit_identity_lora(model, latents, text, count, torch.Generator().manual_seed(0))
    try:
        for _ in track(steps, "learning the picture", count):
            pass
        return lora_file(model.unet, IDENTITY)
    finally:
        remove_lora(model, IDENTITY)


@contextmanager
def _kept(cache: IdentityCache, key: str, contents: Contents, track: Track) -> Iterator[Path]:
    """The LoRA as a file in the cache, or, where that cannot be written, in a folder that goes when it is loaded."""
    with TemporaryDirectory() as elsewhere:
        try:
            path = cache.put(key, *contents)
        except StorageError as error:
            track.note(f"what was learned of the picture is not kept in the cache: {error.what}")
            path = Path(elsewhere) / "identity.safetensors"
            write_tensors(path, *contents)
        yield path
