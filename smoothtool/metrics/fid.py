"""Frechet distance between two sets of pictures (Heusel et al. 2017, arXiv:1706.08500), in features that are named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from smoothtool.errors import InputError, ModelError
from smoothtool.metrics.bootstrap import PARTS

INCEPTION_WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_NAME = "inception-v3"
ENOUGH_PICTURES = 2_048  # with fewer, Inception's 2,048 x 2,048 covariance does not have full rank
BATCH = 32

Features = Callable[[torch.Tensor], torch.Tensor]
"""pixel_values [B, 3, H, W] in [-1, 1] -> [B, D]."""


@dataclass(frozen=True)
class Frechet:
    """The distance, the name of the features it was taken in, the pictures on each side, and a warning or ''.

    left_out  the distance without each twentieth of the pictures in turn, for intervals; empty under twenty pictures
    """

    distance: float
    left_out: tuple[float, ...]
    features: str
    counts: tuple[int, int]
    warning: str


def frechet(first: torch.Tensor, second: torch.Tensor, features: str) -> Frechet:
    """The distance of two feature sets [N, D] and [M, D] that were made by the features of that name."""
    counts = (len(first), len(second))
    warning = ""
    if min(counts) < ENOUGH_PICTURES:
        warning = f"{min(counts)} pictures are few (under {ENOUGH_PICTURES:,}): the Frechet distance reads too high"
    return Frechet(frechet_distance(first, second), _left_out(first, second), features, counts, warning)


def _left_out(first: torch.Tensor, second: torch.Tensor) -> tuple[float, ...]:
    """Every twentieth picture goes, on both sides: where two sets follow the same captions, the same ones go."""
    if min(len(first), len(second)) < PARTS:
        return ()
    return tuple(frechet_distance(_without(first, part), _without(second, part)) for part in range(PARTS))


def _without(rows: torch.Tensor, part: int) -> torch.Tensor:
    return rows[torch.arange(len(rows), device=rows.device) % PARTS != part]


def frechet_distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """|| mu_a - mu_b ||^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2), sample covariances, in float64.

    The symmetric form has the trace of (C_a C_b)^1/2 but needs only symmetric eigenvalues, and no scipy.
    Raises: InputError when a set has fewer than two rows, or a value is not finite.
    """
    a, b = first.detach().cpu().double(), second.detach().cpu().double()
    for rows in (a, b):
        if len(rows) < 2:
            raise InputError(f"a Frechet distance needs two pictures a side, one has {len(rows)}", "more pictures")
        if not bool(torch.isfinite(rows).all()):
            raise InputError("a picture has features that are not finite", "leave broken pictures out")
    covariance_a, covariance_b = (torch.cov(rows.T).reshape(rows.shape[1], -1) for rows in (a, b))
    root = _symmetric_root(covariance_a)
    cross = torch.linalg.eigvalsh(root @ covariance_b @ root).clamp(min=0).sqrt().sum()
    between_means = (a.mean(dim=0) - b.mean(dim=0)).square().sum()
    return max(0.0, float(between_means + covariance_a.trace() + covariance_b.trace() - 2 * cross))


def inception_features(pixel_values: torch.Tensor) -> torch.Tensor:
    """The 2,048 pooled features of the original FID Inception -> [B, 2048].

    Raises: ModelError with the reason of `inception_missing()`.
    """
    if reason := inception_missing():
        raise ModelError(reason, "the features of the model's own CLIP, --features clip")
    pictures = (pixel_values + 1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    network = _inception()
    return torch.cat([network(part)[0] for part in torch.split(pictures, BATCH)])


def inception_missing() -> str:
    """Why Inception cannot be had on this machine, or an empty string. Nothing is ever downloaded for it."""
    if find_spec("torch_fidelity") is None:
        return "FID in Inception features needs an extra: pip install 'smoothtool[metrics]'"
    if not _inception_path().is_file():
        return f"FID needs Inception's weights: put {INCEPTION_WEIGHTS} of torch-fidelity in {_inception_path().parent}"
    return ""


def _inception_path() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_WEIGHTS


@lru_cache(maxsize=1)
def _inception() -> Any:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = _inception_path()
    torch.load(path, map_location="cpu", weights_only=True)  # torch-fidelity would run a pickle: refuse one here
    return FeatureExtractorInceptionV3(INCEPTION_NAME, ["2048"], feature_extractor_weights_path=str(path))


def _symmetric_root(matrix: torch.Tensor) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T
