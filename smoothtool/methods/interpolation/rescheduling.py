"""DiffMorpher (Zhang et al. 2024, arXiv:2312.07409): frames equally far apart, with evenly changing statistics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


def rescheduled_ratios(ratios: Sequence[float], distances: Sequence[float], frames: int) -> list[float]:
    """The in-between ratios at which adjacent frames are equally far apart.

    With c_i = d_1 + … + d_i the distance travelled at ratio i, the new ratio j is where the curve through
    (ratio_i, c_i) reaches j/(n+1) of its end; between the known frames the curve is taken as straight.

    ratios     F of a sequence that was sampled already, both ends included, rising from 0 to 1
    distances  F - 1 between its adjacent frames, in any one distance
    frames     n, how many in-betweens are wanted
    A sequence that does not move at all keeps uniform ratios.
    """
    travelled = np.concatenate([[0.0], np.cumsum(distances)])
    if len(travelled) != len(ratios):
        raise ValueError(f"{len(ratios)} ratios need {len(ratios) - 1} distances, not {len(distances)}")
    wanted = np.arange(1, frames + 1) / (frames + 1)
    if travelled[-1] == 0:
        return [float(ratio) for ratio in wanted]
    return [float(ratio) for ratio in np.interp(wanted * travelled[-1], travelled, ratios)]


def adain(latents: torch.Tensor, first: torch.Tensor, last: torch.Tensor, ratios: Sequence[float]) -> torch.Tensor:
    """Give every frame, per channel, the interpolated mean and deviation of the two ends.

    z' = std(r) (z - mean(z)) / std(z) + mean(r), with mean(r) = (1 - r) mean_first + r mean_last, std(r) alike

    latents  [n, C, h, w], one frame per ratio; first, last [C, h, w]. Of the noise that sampling starts from, as in
             DiffMorpher's program; on finished latents it changes frames four times as much
    On purpose not as in the program: one kind of deviation (of the population, without its 1e-5) on both sides, so that
    the ends stay exactly as they are.
    """
    weight = torch.tensor(list(ratios), dtype=latents.dtype, device=latents.device).view(-1, 1, 1, 1)
    ends = torch.stack([first, last])
    mean, std = (torch.lerp(part[:1], part[1:], weight) for part in _statistics(ends))
    own_mean, own_std = _statistics(latents)
    return std * (latents - own_mean) / own_std.clamp(min=torch.finfo(latents.dtype).tiny) + mean


def _statistics(latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return latents.mean(dim=(2, 3), keepdim=True), latents.std(dim=(2, 3), correction=0, keepdim=True)
