"""Training examples: latents and prompt embeddings, computed once and read from disk ever after.

VAE encoding is 63 % of a plain SD 1.5 training step, and neither VAE nor text encoder is trained.
Both are stored in parts of a few hundred, so that a killed run goes on where it was; half a part never appears.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import InputError, ModelError, SmoothtoolError, StorageError, storage_error
from smoothtool.files.lists.captioned import CaptionedPicture
from smoothtool.files.pictures.fitting import fit_image
from smoothtool.files.pictures.notes import PictureNotes
from smoothtool.files.storage.digests import digest
from smoothtool.files.storage.leftovers import sweep_leftovers
from smoothtool.files.storage.tensors import ENTRY, is_intact, write_tensors
from smoothtool.types import Conditioning, Track

PART = 256
ENCODE_BATCH = 16
BUCKET_RATIOS = (1.0, 5 / 4, 4 / 3, 3 / 2, 16 / 9, 2.0)

Tensors = dict[str, torch.Tensor]
Framing = tuple[int, int, int, int, int, int]


@dataclass(frozen=True)
class Examples:
    """What training reads.

    buckets   indices of pictures whose latents have one size, to be batched together
    captions  per picture the rows of its captions in the embeddings; row 0 is the null embedding
    framings  per picture what SDXL is given of its size and crop, see `framing`
    digest    of everything that the numbers depend on
    notes     what reading the pictures left out or guessed
    """

    latents: PartStore
    embeddings: PartStore
    buckets: tuple[tuple[int, ...], ...]
    captions: tuple[tuple[int, ...], ...]
    framings: Mapping[int, Framing]
    digest: str
    complaints: tuple[str, ...]
    notes: tuple[str, ...] = ()

    def posterior(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of a picture's latents, each [C, h, w] float32."""
        return self.latents.read(index, "mean").float(), self.latents.read(index, "std").float()

    def conditioning(self, indices: Sequence[int], rows: Sequence[int]) -> Conditioning:
        """Of pictures under the captions in these rows, float32; for SDXL with the pooled part, size and crop."""
        embeds = torch.stack([self.embeddings.read(row, "embeds").float() for row in rows])
        if not self.embeddings.has(rows[0], "pooled"):
            return Conditioning(embeds)
        pooled = torch.stack([self.embeddings.read(row, "pooled").float() for row in rows])
        framings = torch.tensor([self.framings[index] for index in indices], device="cpu")
        return Conditioning(embeds, pooled, framings.float())


@dataclass(frozen=True)
class PartStore:
    """`count` rows of tensors in sealed files of `PART` rows; the tensors of row i are `NAME.i`.

    in_memory  by first row, the parts that could not be written
    """

    folder: Path
    count: int
    in_memory: dict[int, tuple[Tensors, dict[str, Any]]] = field(default_factory=dict)

    def fill(self, make: Callable[[range], tuple[Tensors, dict[str, Any]]], track: Track, description: str) -> None:
        """Compute the parts that are missing or damaged: `make(rows)` gives tensors and facts for the header."""
        parts = range(0, self.count, PART)
        for start in track((start for start in parts), description, len(parts)):
            if not is_intact(self._path(start), self._entry(start)):
                self._keep(start, *make(range(start, min(start + PART, self.count))), track)
        _opened.cache_clear()  # of files that were replaced

    def _keep(self, start: int, tensors: Tensors, facts: dict[str, Any], track: Track) -> None:
        """On the disk, or, where the cache cannot be written, in memory for this training alone."""
        try:
            _make_folder(self.folder)
            header = {"facts": json.dumps(facts), ENTRY: self._entry(start)}
            write_tensors(self._path(start), tensors, header, seal=True)
        except StorageError as error:
            if not self.in_memory:
                track.note(f"training data is kept in memory, not in the cache: {error.what}")
            self.in_memory[start] = tensors, facts

    def read(self, row: int, name: str) -> torch.Tensor:
        """Raises: ModelError when somebody has cleared the cache meanwhile."""
        start = row - row % PART
        if start in self.in_memory:
            return self.in_memory[start][0][f"{name}.{row}"]
        return _opened(self._path(start)).get_tensor(f"{name}.{row}")

    def has(self, row: int, name: str) -> bool:
        start, key = row - row % PART, f"{name}.{row}"
        known = self.in_memory[start][0] if start in self.in_memory else _opened(self._path(start))
        return key in known.keys()  # noqa: SIM118 - a file of tensors is no dict

    def facts(self) -> Iterable[dict[str, Any]]:
        """The headers, in order."""
        for start in range(0, self.count, PART):
            if start in self.in_memory:
                yield self.in_memory[start][1]
            else:
                yield json.loads(_opened(self._path(start)).metadata()["facts"])

    def _entry(self, start: int) -> str:
        return f"{self.folder.name} {start}"

    def _path(self, start: int) -> Path:
        return self.folder / f"part-{start:09d}.safetensors"


def prepare_examples(
    model: DiffusionModel,
    pictures: Sequence[CaptionedPicture],
    sizes_px: Sequence[tuple[int, int]],
    cache: Path,
    track: Track,
) -> Examples:
    """Encode what the cache lacks; a picture that cannot be read is named and left out.

    sizes_px  (width, height) of the buckets: each picture goes to the nearest shape, its centre cropped to it
    Raises: InputError when no picture can be read.
    """
    sweep_leftovers(cache, deep=True)
    weights = [model.fingerprint, *(f"{lora['fingerprint']}:{lora['scale']}" for lora in model.loras)]
    texts = ["", *sorted({caption for picture in pictures for caption in picture.captions} - {""})]
    named = [(picture.name, picture.version) for picture in pictures]
    latents_key, texts_key = digest([weights[0], sizes_px, named], 16), digest([weights, texts], 16)
    latents = PartStore(cache / f"latents-{latents_key}", len(pictures))
    embeddings = PartStore(cache / f"prompts-{texts_key}", len(texts))
    latents.fill(lambda rows: _encode_pictures(model, pictures, rows, sizes_px), track, "encoding pictures")
    embeddings.fill(lambda rows: _encode_prompts(model, texts, rows), track, "encoding captions")
    facts = list(latents.facts())
    buckets: dict[str, list[int]] = {}
    for row, size in ((int(row), size) for part in facts for row, size in part["sizes"].items()):
        buckets.setdefault(str(size), []).append(row)
    broken = tuple(line for part in facts for line in part["broken"])
    if not buckets:
        raise InputError(f"none of the {len(pictures)} pictures can be read ({broken[0]})", "other training data")
    row_of = {text: row for row, text in enumerate(texts)}
    captions = tuple(tuple(row_of[caption] for caption in picture.captions) for picture in pictures)
    groups = tuple(tuple(rows) for _, rows in sorted(buckets.items()))
    content, notes = digest([latents_key, texts_key], 16), PictureNotes()
    for part in facts:
        notes.join(part.get("notes", {}))
    framings = {int(row): framing for part in facts for row, framing in part.get("framings", {}).items()}
    return Examples(latents, embeddings, groups, captions, framings, content, broken, tuple(notes.lines()))


def bucket_sizes(side_px: int, multiple: int) -> tuple[tuple[int, int], ...]:
    """Shapes of about side^2 pixels from 1:2 to 2:1, their sides multiples of `multiple`."""
    sizes = {(side_px, side_px)}
    for ratio in BUCKET_RATIOS:
        long, short = (max(1, round(side_px * factor / multiple)) * multiple for factor in (ratio**0.5, ratio**-0.5))
        sizes |= {(long, short), (short, long)}
    return tuple(sorted(sizes))


def framing(original_px: tuple[int, int], size_px: tuple[int, int]) -> Framing:
    """What SDXL is given of a picture that was scaled and its centre cropped: the original's height and width, the top
    and left of the crop in pixels of the scaled picture, the crop's height and width (arXiv:2307.01952, section 2.2).

    original_px, size_px  (width, height)
    """
    (width, height), (to_width, to_height) = original_px, size_px
    scale = max(to_width / width, to_height / height)
    top, left = round((height * scale - to_height) / 2), round((width * scale - to_width) / 2)
    return height, width, top, left, to_height, to_width


def nearest_size(size_px: tuple[int, int], sizes_px: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The bucket whose aspect ratio differs by the smallest factor, so that least is cropped away."""
    ratio = size_px[0] / size_px[1]
    return min(sizes_px, key=lambda size: max(ratio * size[1] / size[0], size[0] / size[1] / ratio))


def _encode_pictures(
    model: DiffusionModel, pictures: Sequence[CaptionedPicture], rows: range, sizes_px: Sequence[tuple[int, int]]
) -> tuple[Tensors, dict[str, Any]]:
    tensors: Tensors = {}
    broken: list[str] = []
    notes = PictureNotes()
    sizes: dict[int, str] = {}
    framings: dict[int, Framing] = {}
    waiting: dict[tuple[int, int], list[tuple[int, torch.Tensor]]] = {}
    for row in rows:
        try:
            picture = notes.add(pictures[row].name, pictures[row].load())
        except SmoothtoolError as error:
            broken.append(error.what)
            continue
        size = nearest_size(picture.size, sizes_px)
        sizes[row], framings[row] = f"{size[0]}x{size[1]}", framing(picture.size, size)
        fitted = fit_image(picture, multiple=model.size_multiple, size=size, native_px=model.native_size_px)
        group = waiting.setdefault(size, [])
        group.append((row, fitted.pixel_values))
        if len(group) == ENCODE_BATCH:
            tensors |= _encode_group(model, waiting.pop(size))
    for group in waiting.values():
        tensors |= _encode_group(model, group)
    return tensors, {"broken": broken, "sizes": sizes, "framings": framings, "notes": notes.names}


def _encode_group(model: DiffusionModel, group: Sequence[tuple[int, torch.Tensor]]) -> Tensors:
    means, deviations = model.encode_posterior(torch.cat([pixel_values for _, pixel_values in group]))
    tensors = {}
    for (row, _), mean, deviation in zip(group, means, deviations, strict=True):
        tensors[f"mean.{row}"] = mean.half().cpu().clone(memory_format=torch.contiguous_format)
        tensors[f"std.{row}"] = deviation.half().cpu().clone(memory_format=torch.contiguous_format)
    return tensors


def _encode_prompts(model: DiffusionModel, texts: Sequence[str], rows: range) -> tuple[Tensors, dict[str, Any]]:
    """The empty text stands for no caption: the null half's conditioning, which is zeros for SDXL."""
    given = [model.encode_prompts([texts[row]]) if texts[row] else model.encode_null() for row in rows]
    model.forget_prompts()
    tensors = {f"embeds.{row}": text.prompt_embeds[0] for row, text in zip(rows, given, strict=True)}
    pooled = {row: text.pooled_prompt_embeds for row, text in zip(rows, given, strict=True)}
    tensors |= {f"pooled.{row}": part[0] for row, part in pooled.items() if part is not None}
    return {name: tensor.half().cpu().clone() for name, tensor in tensors.items()}, {}


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(folder, error) from error


@lru_cache(maxsize=64)
def _opened(path: Path) -> Any:
    """Memory-mapped: reading one row touches its pages alone."""
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path}: the cached training data is gone", "--resume, which computes it again") from error
