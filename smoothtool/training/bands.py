"""Figures of a training step by timestep: x0_hat grows as 1/sqrt(abar_t), and n with it."""

from __future__ import annotations

from collections.abc import Mapping

import torch

BANDS = 4


def in_bands(
    timesteps: torch.Tensor, train_timesteps: int, figures: Mapping[str, torch.Tensor]
) -> dict[str, dict[str, float]]:
    """Means of each figure [B] over the samples of each of `BANDS` equal bands ("0-249"), and how many there are."""
    width = -(-train_timesteps // BANDS)
    found = {}
    for band in range(BANDS):
        inside = timesteps // width == band
        if bool(inside.any()):
            means = {name: float(values[inside].mean()) for name, values in figures.items()}
            found[f"{band * width}-{(band + 1) * width - 1}"] = {**means, "samples": int(inside.sum())}
    return found
