"""Spherical interpolation of latents (Shoemake 1985; Smooth Diffusion, arXiv:2312.04410, eq. 18)."""

from __future__ import annotations

import torch

PARALLEL_COSINE = 0.9995


def slerp(start: torch.Tensor, end: torch.Tensor, ratio: float) -> torch.Tensor:
    """sin((1-r) w)/sin(w) a + sin(r w)/sin(w) b, with w the angle between the flattened tensors, in float64 on the CPU.

    start, end  one picture's latents of the same shape; ratio 0 gives `start`, 1 gives `end`, both exactly.
    Nearly parallel tensors (cosine above 0.9995) are interpolated linearly. Opposite ones have no shortest arc: the
    path goes round through a fixed direction orthogonal to `start`.
    """
    if ratio in (0.0, 1.0):
        return (start if ratio == 0.0 else end).clone()
    a, b = (side.cpu().double().flatten() for side in (start, end))  # MPS has no float64
    scale = a.norm() * b.norm()
    cosine = float((a @ b / scale).clamp(-1, 1)) if float(scale) > 0 else 1.0
    if cosine > PARALLEL_COSINE:
        mixed = (1 - ratio) * a + ratio * b
    elif cosine < -PARALLEL_COSINE:
        mixed = _half_turn(a, b, ratio)
    else:
        angle = torch.acos(torch.tensor(cosine, dtype=torch.float64, device="cpu"))
        mixed = (torch.sin((1 - ratio) * angle) * a + torch.sin(ratio * angle) * b) / torch.sin(angle)
    return mixed.reshape(start.shape).to(start)


def _half_turn(a: torch.Tensor, b: torch.Tensor, ratio: float) -> torch.Tensor:
    """cos(pi r) a^ + sin(pi r) o^, the length interpolated; o^ is made of the entries of a, and so is repeatable."""
    sideways = a.roll(1)
    sideways = sideways - (sideways @ a) / (a @ a) * a
    angle = torch.tensor(torch.pi * ratio, dtype=torch.float64, device="cpu")
    length = (1 - ratio) * a.norm() + ratio * b.norm()
    return length * (torch.cos(angle) * a / a.norm() + torch.sin(angle) * sideways / sideways.norm())


def uniform_ratios(frames: int) -> list[float]:
    """The n in-between ratios: n = 9 gives 0.1 … 0.9."""
    return [index / (frames + 1) for index in range(1, frames + 1)]
