"""`interpolate --grid`: three or four pictures and their mixtures, one sheet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from PIL import Image

from smoothtool.commands.interpolate.stages import Ends
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.figures import InterpolateFigures
from smoothtool.files.drawing.sheets import contact_sheet
from smoothtool.files.pictures.images import crop_back
from smoothtool.methods.interpolation.barycentres import Weights, barycentre_steps, grid_weights
from smoothtool.metrics.sequences import deviation_of, pixel_l2
from smoothtool.types import Track

if TYPE_CHECKING:
    from smoothtool.jobs import InterpolateJob

T = TypeVar("T")


@dataclass(frozen=True)
class Grid:
    """Pictures [M, 3, H, W] row by row, and in rows how much of each corner is in them."""

    pixel_values: torch.Tensor
    weights: list[list[Weights]]

    def rows(self, items: Sequence[T]) -> list[list[T]]:
        """M things as the rows of the grid."""
        taken = iter(items)
        return [[next(taken) for _ in row] for row in self.weights]

    def figures(self) -> InterpolateFigures:
        """The weights, and how evenly pictures change to those beside and below them."""
        first, second = zip(*self.neighbours(), strict=True)
        distances = pixel_l2(self.pixel_values[list(first)], self.pixel_values[list(second)])
        return {
            "neighbour_l2": deviation_of(distances, pixels=self.pixel_values[0].numel()).figures(),
            "weights": self.weights,
        }

    def neighbours(self) -> list[tuple[int, int]]:
        """Pairs of indices that stand side by side: in a row, and from a row to the next one."""
        rows = self.rows(range(len(self.pixel_values)))
        pairs = [pair for row in rows for pair in pairwise(row)]
        for above, below in pairwise(rows):
            pairs += zip(above, below, strict=False)
            if len(below) > len(above):  # a triangle: every picture stands over two
                pairs += zip(above, below[1:], strict=True)
        return pairs


def grid_between(model: DiffusionModel, ends: Ends, job: InterpolateJob, track: Track) -> Grid:
    """The corners as their inversion gives them back, and the mixtures of their noises sampled as one batch."""
    weights = grid_weights(len(ends.images), job.frames)
    every = [place for row in weights for place in row]
    text, null = model.encode_prompts(ends.prompts), model.encode_null(job.negative)
    null_embeds = ends.inverted.inversion.null_embeds if ends.inverted else None
    mixed = [place for place in every if max(place) < 1]
    steps = barycentre_steps(model, ends.noise, text, null, null_embeds, mixed, job.steps, job.guidance)
    *_, last = track(steps, "sampling", job.steps)
    sampled = iter(last.latents)
    latents = [next(sampled) if max(place) < 1 else ends.images[place.index(1)] for place in every]
    pixel_values = model.decode_latents(torch.stack(latents))
    return Grid(pixel_values if ends.fitted is None else crop_back(pixel_values, ends.fitted), weights)


def grid_sheet(grid: Grid, pictures: Sequence[Image.Image], corners: Sequence[str]) -> Image.Image:
    """The grid as it stands, with the corners' captions; three pictures as a triangle."""
    labels = [[corners[place.index(1)] if max(place) == 1 else "" for place in row] for row in grid.weights]
    return contact_sheet(grid.rows(pictures), labels, centred=True)


def corner_names(ends: Ends, images: Sequence[str]) -> list[str]:
    """What stands under the corners: their prompts, or the names of their files."""
    return [prompt or Path(name).name for prompt, name in zip(ends.prompts, images, strict=True)]
