"""How evenly a sequence of frames changes: adjacent distances, their deviation, PPL and PDV."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from smoothtool.errors import InputError
from smoothtool.figures import DeviationFigures, PathLengthFigures

PairDistance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Two sets of pictures [B, 3, H, W] in [-1, 1] -> B distances."""


@dataclass(frozen=True)
class Deviation:
    """Adjacent L2 distances over [0, 1] RGB pixels, and how far they scatter around their mean.

    population_std       divided by F - 1 distances (the default of ISTD)
    sample_std           divided by one less; None for a single distance
    normalised_std       population_std / sqrt(3 H W): comparable between picture sizes
    """

    distances: tuple[float, ...]
    mean: float
    population_std: float
    sample_std: float | None
    normalised_std: float

    def figures(self) -> DeviationFigures:
        return {
            "distances": self.distances,
            "mean": self.mean,
            "population_std": self.population_std,
            "sample_std": self.sample_std,
            "normalised_std": self.normalised_std,
        }


@dataclass(frozen=True)
class PathFigures:
    """PPL = sum and PDV = population variance of the adjacent distances, in the distance that is named."""

    distance: str
    distances: tuple[float, ...]
    ppl: float
    pdv: float

    def figures(self) -> PathLengthFigures:
        return {"distance": self.distance, "distances": self.distances, "ppl": self.ppl, "pdv": self.pdv}


def adjacent_l2(frames: torch.Tensor) -> torch.Tensor:
    """d_i = || frame_{i+1} - frame_i ||_2 over all [0, 1] RGB values.

    frames  [F, 3, H, W] or [B, F, 3, H, W] in [-1, 1] -> [F - 1] or [B, F - 1], float64
    Raises: InputError when there are fewer than two frames.
    """
    _require_two(frames.shape[-4])
    steps = frames.double().diff(dim=-4) / 2
    return steps.flatten(start_dim=-3).norm(dim=-1)


def deviation(frames: torch.Tensor) -> Deviation:
    """The figures of one sequence [F, 3, H, W] in [-1, 1].

    Raises: InputError when there are fewer than two frames.
    """
    return deviation_of(adjacent_l2(frames), pixels=frames[0].numel())


def deviation_of(distances: torch.Tensor, *, pixels: int) -> Deviation:
    """The same from the distances [F - 1] of frames of `pixels` = 3 H W values."""
    distances = distances.double()
    population = float(distances.std(correction=0))
    sample = float(distances.std(correction=1)) if len(distances) > 1 else None
    values = tuple(distances.tolist())
    return Deviation(values, float(distances.mean()), population, sample, population / math.sqrt(pixels))


def pixel_l2(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """The distance of `adjacent_l2` as a `PairDistance`."""
    return ((first.double() - second.double()) / 2).flatten(start_dim=1).norm(dim=1)


def path_figures(frames: torch.Tensor, distance: PairDistance, name: str) -> PathFigures:
    """PPL and PDV (Zhang et al. 2024, DiffMorpher, arXiv:2312.07409) of frames [F, 3, H, W] in [-1, 1].

    The paper's distance is LPIPS; figures in another distance cannot be compared with it, so the name goes along.
    Raises: InputError when there are fewer than two frames.
    """
    _require_two(len(frames))
    distances = distance(frames[:-1], frames[1:]).double()
    return PathFigures(name, tuple(distances.tolist()), float(distances.sum()), float(distances.var(correction=0)))


def _require_two(count: int) -> None:
    if count < 2:
        raise InputError(f"a sequence of {count} frames has no adjacent distances", "at least two frames")
