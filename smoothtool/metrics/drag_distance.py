"""How far from its target a dragged point is, found again in the result by diffusion features.

DIFT (Tang et al., NeurIPS 2023, arXiv:2306.03881), as DragBench uses it: the feature behind the second decoder block
at t = 261, mean over 8 noises, enlarged to the picture; the best match of the handle's feature by cosine similarity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from smoothtool.diffusion.ddim import add_noise
from smoothtool.diffusion.features import predict_with_feature
from smoothtool.diffusion.layers import layer_choices
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.types import DragPoints

TIMESTEP, ENSEMBLE = 261, 8
Places = Sequence[tuple[float, float]]
"""(x, y) in pixels."""
CHANNELS_AT_ONCE = 64
"""Enlarged to 512 x 512 they take 67 MB."""


@torch.no_grad()
def correspondence_feature(model: DiffusionModel, pixel_values: torch.Tensor, prompt: str) -> torch.Tensor:
    """pixel_values [1, 3, H, W] in [-1, 1] -> feature [1, C, h, w]; the noises are the same for every picture."""
    latents, text = model.encode_images(pixel_values), model.encode_prompts([prompt])
    generator = torch.Generator().manual_seed(0)
    total, block = torch.zeros((), device=latents.device), layer_choices(model.unet).match_block
    for _ in range(ENSEMBLE):
        noise = torch.randn(latents.shape, generator=generator, device="cpu").to(latents)
        noisy = add_noise(latents, noise, model.schedule.alpha_prod(TIMESTEP))
        _, feature = predict_with_feature(model, noisy, TIMESTEP, text, whole=False, block=block)
        total = feature.detach() + total.to(feature.device)
    return total / ENSEMBLE


def find_points(
    before: torch.Tensor, after: torch.Tensor, places_xy_px: tuple[tuple[float, float], ...], size_px: tuple[int, int]
) -> Places:
    """Where each place of the picture before is in the picture after, (x, y) in pixels.

    before, after  features [1, C, h, w] of two pictures of `size_px` (width, height)
    """
    height, width = size_px[1], size_px[0]
    norms = _enlarged_norms(after, (height, width))
    found = []
    for x, y in places_xy_px:
        wanted = _at(before, round(y), round(x), (height, width))
        likeness = F.interpolate((after * wanted).sum(dim=1, keepdim=True), (height, width), mode="bilinear") / norms
        row, col = divmod(int(likeness.argmax()), width)
        found.append((col, row))
    return found


def target_distances(found_xy_px: Places, points: DragPoints) -> list[float]:
    """Pixels from where each handle was found to its target."""
    return [math.dist(found, target) for found, target in zip(found_xy_px, points.targets_xy_px, strict=True)]


def normalised_distances(found_xy_px: Places, points: DragPoints, size_px: tuple[int, int]) -> list[float]:
    """The same of places divided by the picture's (width, height): 1 is a whole side."""
    width, height = size_px
    pairs = zip(found_xy_px, points.targets_xy_px, strict=True)
    return [math.hypot((x - to_x) / width, (y - to_y) / height) for (x, y), (to_x, to_y) in pairs]


def _at(feature: torch.Tensor, row: int, col: int, size: tuple[int, int]) -> torch.Tensor:
    """The enlarged feature at one pixel, [1, C, 1, 1]."""
    rows, cols = (
        F.interpolate(torch.eye(length, device=feature.device)[None], size=enlarged, mode="linear")[0, :, place]
        for length, enlarged, place in zip(feature.shape[-2:], size, (row, col), strict=True)
    )
    return torch.einsum("bchw,h,w->bc", feature, rows, cols)[..., None, None]


def _enlarged_norms(feature: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Length of the enlarged feature at every pixel, [1, 1, H, W], a few channels at a time."""
    squares = torch.zeros((1, 1, *size), device=feature.device)
    for part in feature.split(CHANNELS_AT_ONCE, dim=1):
        squares += F.interpolate(part, size, mode="bilinear").square().sum(dim=1, keepdim=True)
    return squares.sqrt().clamp_min(1e-8)
