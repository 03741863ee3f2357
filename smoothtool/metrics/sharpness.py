"""Whether the frames between two pictures are pictures themselves, or the two laid over each other.

A cross-fade is as smooth as a sequence can be, and worthless. What gives it away is fine detail: with that of the two
pictures unrelated, a share s of one over a share 1 - s of the other has the energy s^2 E_1 + (1 - s)^2 E_0, which in
the middle is half of what pictures between them would have. Blurred frames lack it too.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from smoothtool.errors import InputError

LAPLACIAN = ((0.0, 1.0, 0.0), (1.0, -4.0, 1.0), (0.0, 1.0, 0.0))


@dataclass(frozen=True)
class Sharpness:
    """Energy of fine detail in a sequence of F frames.

    relative  of the frames between the ends, each to the line (1 - s) E_0 + s E_last with s = i / (F - 1); none where
              the ends have no detail
    middle    the same in the middle of the sequence: 1/2 for a cross-fade of unrelated pictures, near 1 for frames as
              sharp as the ends; None where the ends have no detail
    """

    relative: tuple[float, ...]
    middle: float | None


def detail_energy(frames: torch.Tensor) -> torch.Tensor:
    """Mean square of the Laplacian of [0, 1] RGB: frames [F, 3, H, W] in [-1, 1] -> [F], float64.

    Raises: InputError when a frame is smaller than 3 px a side.
    """
    if min(frames.shape[-2:]) < 3:
        raise InputError("frames of less than 3 pixels a side have no detail to measure", "larger frames")
    kernel = torch.tensor(LAPLACIAN, dtype=torch.float64, device=frames.device)[None, None]
    planes = frames.double().flatten(end_dim=1)[:, None] / 2
    return F.conv2d(planes, kernel).square().mean(dim=(1, 2, 3)).view(*frames.shape[:2]).mean(dim=1)


def sharpness(frames: torch.Tensor) -> Sharpness:
    """frames [F, 3, H, W] in [-1, 1], both ends included.

    Raises: InputError when there is no frame between two ends.
    """
    if len(frames) < 3:
        raise InputError(f"a sequence of {len(frames)} frames has none between its ends", "at least three frames")
    energy = detail_energy(frames)
    if float(energy[0] + energy[-1]) == 0:
        return Sharpness((), None)
    expected = torch.lerp(energy[0], energy[-1], torch.linspace(0, 1, len(frames), device=energy.device).to(energy))
    relative = (energy / expected)[1:-1].tolist()
    central = relative[(len(relative) - 1) // 2 : len(relative) // 2 + 1]
    return Sharpness(tuple(relative), sum(central) / len(central))
