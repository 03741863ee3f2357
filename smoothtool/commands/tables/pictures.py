"""The pictures that the paper's tables are measured on: real ones, the VAE's copies of them, and made ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image, ImageOps

from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import constant, denoise
from smoothtool.errors import InputError
from smoothtool.files.lists.captioned import CaptionedPicture
from smoothtool.files.pictures.images import load_image, save_image, to_image, to_pixel_values
from smoothtool.files.pictures.provenance import DigitalSource
from smoothtool.files.storage.cache import cache_folder
from smoothtool.files.storage.digests import digest
from smoothtool.files.storage.writing import write_text_atomic
from smoothtool.jobs.notation import working_size
from smoothtool.methods.smoothness.istd import prompt_noises
from smoothtool.readers.regular import at_home
from smoothtool.stickers.world.captioned import sticker_scenes
from smoothtool.training.captions import read_captioned_folder
from smoothtool.types import Track

if TYPE_CHECKING:
    from smoothtool.jobs import TablesJob

STICKERS = "stickers"
BATCH = 32


@dataclass(frozen=True)
class RealPictures:
    """A folder of pictures `00000.png`, …, each with its caption in a text file beside it."""

    folder: Path
    captions: tuple[str, ...]

    def paths(self, count: int) -> list[Path]:
        return [self.folder / f"{index:05d}.png" for index in range(min(count, len(self.captions)))]


def real_pictures(model: DiffusionModel, job: TablesJob, parent: Path, track: Track) -> RealPictures:
    """The pictures to measure against, cropped to the model's size; those on disk already are kept.

    Raises: InputError when there are fewer than two.
    """
    _, height, width = model.noise_shape(working_size(job.size))
    size_px = (width * model.vae_scale_factor, height * model.vae_scale_factor)
    pictures = _captioned(job)
    if len(pictures) < 2:
        raise InputError(f"{job.data}: two pictures are the least to measure against", "more captioned pictures")
    captions = tuple(picture.captions[0] for picture in pictures)
    versions = [picture.version for picture in pictures]
    folder = parent / f"real-{digest([job.data, size_px, captions, versions])}"
    folder.mkdir(parents=True, exist_ok=True)
    for index, picture in track(enumerate(pictures), "gathering pictures", len(pictures)):
        if job.force or not (folder / f"{index:05d}.png").exists():
            cropped = ImageOps.fit(picture.load(), size_px, Image.Resampling.LANCZOS)
            _save(cropped, folder, index, captions[index], made=False)
    return RealPictures(folder, captions)


def vae_copies(model: DiffusionModel, pictures: Sequence[Path], parent: Path, *, fresh: bool) -> Path:
    """Encoded and decoded again: the ceiling of every reconstruction. `fresh`: those on disk too."""
    folder = parent / f"vae-{digest([model.fingerprint, str(model.dtype), *pictures])}"
    folder.mkdir(parents=True, exist_ok=True)
    for index, path in enumerate(pictures):
        if fresh or not (folder / path.name).exists():
            latents = model.encode_images(to_pixel_values(load_image(path)))
            _save(to_image(model.decode_latents(latents)), folder, index, "", made=False)
    return folder


def made_pictures(
    model: DiffusionModel,
    name: str,
    captions: Sequence[str],
    job: TablesJob,
    parent: Path,
    track: Track,
    *,
    fresh: bool,
) -> Path:
    """One picture per caption from its own noise, the same noise for every model; whole batches on disk are kept.

    fresh  those on disk are made again
    """
    shape = model.noise_shape(working_size(job.size))
    facts = [*model.identity().values(), str(model.dtype), job.seed, job.steps, job.guidance, shape, list(captions)]
    facts += [job.negative] if job.negative else []
    folder = parent / f"made-{name}-{digest(facts)}"
    folder.mkdir(parents=True, exist_ok=True)
    batches = list(_batches(captions, folder, fresh))
    for batch in track(batches, f"making pictures ({name})", len(batches)):
        noise = torch.cat([prompt_noises((job.seed or 0) + at, text, shape)[:1] for at, text in batch]).to(model.device)
        text, null = model.encode_prompts([text for _, text in batch]), model.encode_null(job.negative)
        *_, last = denoise(model, noise, constant(text), constant(null), job.steps, job.guidance)
        for (index, caption), pixel_values in zip(batch, model.decode_latents(last.latents), strict=True):
            _save(to_image(pixel_values), folder, index, caption, made=True)
    return folder


def _captioned(job: TablesJob) -> list[CaptionedPicture]:
    if job.data == STICKERS:
        return sticker_scenes(job.pictures, cache_folder("training") / "icons", held_out=True)
    return read_captioned_folder(at_home(job.data))[0][: job.pictures]


def _batches(captions: Sequence[str], folder: Path, fresh: bool) -> Iterator[list[tuple[int, str]]]:
    """Batches with a picture missing: made again as a whole, because company decides the last bits."""
    numbered = enumerate(captions)
    while batch := list(islice(numbered, BATCH)):
        if fresh or not all((folder / f"{index:05d}.png").exists() for index, _ in batch):
            yield batch


def _save(picture: Image.Image, folder: Path, index: int, caption: str, *, made: bool) -> None:
    """The caption first: a picture on disk is one that has its caption."""
    write_text_atomic(folder / f"{index:05d}.txt", caption + "\n")
    source: DigitalSource | None = "trainedAlgorithmicMedia" if made else None
    save_image(picture, folder / f"{index:05d}.png", settings=None, parameters=None, digital_source=source)
