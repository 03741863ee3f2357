"""Teach the model one picture, or remember that it was taught before: what `drag` and DiffMorpher's morphs share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import torch

from smoothtool.diffusion.lora import Contents, lora_file, remove_lora
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import ModelError, StorageError
from smoothtool.files.pictures.fitting import Fitted
from smoothtool.files.storage.cache import cache_key
from smoothtool.files.storage.identity_cache import IdentityCache
from smoothtool.files.storage.tensors import write_tensors
from smoothtool.methods.drag.identity_lora import IDENTITY, fit_identity_lora
from smoothtool.types import Track
from smoothtool.version import __version__

T = TypeVar("T")


@dataclass(frozen=True)
class Fit:
    """How an identity LoRA is fitted: options of `fit_identity_lora`, DragDiffusion's by default."""

    steps: int
    learning_rate: float = 5e-4
    batch: int = 4


def learned_identity(
    model: DiffusionModel, fitted: Fitted, prompt: str, fit: Fit, track: Track, read: Callable[[Path], T]
) -> T:
    """What `read` makes of the picture's LoRA file: the cached one, or one that is learned now.

    The fit's randomness does not depend on --seed, so that one fit serves every job on the picture. An entry that
    `read` refuses with a ModelError counts as none. The model is as before, but for what `read` does to it.
    """
    settings = {
        **model.identity(),
        "prompt": prompt,
        **asdict(fit),
        "dtype": str(model.dtype),
        "init": "gaussian",  # version 0.1.0 kept fits in the same cache that started otherwise
        "version": __version__,
    }
    cache, key = IdentityCache(), cache_key(fitted.pixel_values, settings)
    path = cache.get(key)
    if path is not None:
        try:
            return read(path)
        except ModelError:
            pass
    return _kept(cache, key, _learned(model, fitted, prompt, fit, track), track, read)


def _learned(model: DiffusionModel, fitted: Fitted, prompt: str, fit: Fit, track: Track) -> Contents:
    """The identity LoRA as a file holds it; the model is as before."""
    latents, text = model.encode_images(fitted.pixel_values), model.encode_prompts([prompt])

    def learned() -> Contents:
        generator = torch.Generator().manual_seed(0)
        steps = fit_identity_lora(
            model, latents, text, fit.steps, generator, learning_rate=fit.learning_rate, batch=fit.batch
        )
        try:
            for _ in track(steps, "learning the picture", fit.steps):
                pass
            return lora_file(model.unet, IDENTITY)
        finally:
            remove_lora(model, IDENTITY)

    return model.within_memory(learned)


def _kept(cache: IdentityCache, key: str, contents: Contents, track: Track, read: Callable[[Path], T]) -> T:
    """Read from the cache, or, where it cannot be written or is cleared at once, from a folder that goes afterwards."""
    try:
        return read(cache.put(key, *contents))
    except StorageError as error:
        track.note(f"what was learned of the picture is not kept in the cache: {error.what}")
    except ModelError:
        pass
    with TemporaryDirectory() as elsewhere:
        path = Path(elsewhere) / "identity.safetensors"
        write_tensors(path, *contents)
        return read(path)
