"""The VAE strip by strip: the same picture to rounding, in less memory.

Known tilings decode tiles as if each were a picture of its own, so that its brightness follows from its own statistics.
Here every group normalisation counts the whole picture. A residual block goes over its input twice:

    h = conv1(silu(norm1(x)))        strip by strip, of which only the mean and the variance are kept for norm2
    x + conv2(silu(norm2(h)))        strip by strip, h computed again

Between the blocks whole maps are kept; inside them there is never more than a strip of rows, with the rows above and
below that a 3x3 convolution sees. The first convolution of every block is computed twice: a third more work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from diffusers.models.downsampling import Downsample2D
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import nn

STRIP_NUMBERS = 2**24
"""Of one map, in the memory at once: 64 rows of 256 channels at a width of 1024."""

Forward = Callable[..., torch.Tensor]
Rows = Callable[[int, int], torch.Tensor]
"""Rows first to last of a map [B, C, H, W] that need not exist as a whole -> [B, C, last - first, W]."""


def work_in_strips(vae: AutoencoderKL) -> None:
    """From now on; passes that take gradients and maps of one strip are computed as ever."""
    for module in vae.modules():
        if isinstance(module, ResnetBlock2D) and isinstance(module.nonlinearity, nn.SiLU):
            _replace(module, _residual_block)
        elif isinstance(module, Upsample2D) and isinstance(module.conv, nn.Conv2d):
            _replace(module, _upsampled)
        elif isinstance(module, Downsample2D) and isinstance(module.conv, nn.Conv2d) and module.padding == 0:
            _replace(module, _downsampled)
    for coder in (vae.encoder, vae.decoder):
        coder.conv_out.forward = _Ending(coder.conv_norm_out, coder.conv_act, coder.conv_out)
        coder.conv_norm_out.forward = coder.conv_act.forward = _unchanged


def _replace(module: Any, strips: Callable[[Any, torch.Tensor], torch.Tensor]) -> None:
    plain: Forward = module.forward

    def forward(x: torch.Tensor, *others: Any, **named: Any) -> torch.Tensor:
        if torch.is_grad_enabled() or strip_rows(x) >= x.shape[2]:
            return plain(x, *others, **named)
        return strips(module, x)

    module.forward = forward


def _unchanged(x: torch.Tensor) -> torch.Tensor:
    return x


class _Ending:
    """Normalisation, activation and the last convolution, which diffusers calls one after the other."""

    def __init__(self, norm: nn.GroupNorm, act: nn.Module, conv: nn.Conv2d) -> None:
        self.norm, self.conv = norm, conv
        self.plain: tuple[Forward, ...] = (norm.forward, act.forward, conv.forward)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled() or strip_rows(x) >= x.shape[2]:
            for forward in self.plain:
                x = forward(x)
            return x
        normalise = _normaliser(self.norm, _rows_of(x), x.shape)
        out = x.new_empty(len(x), self.conv.out_channels, *x.shape[2:])
        for first, last in _strips(x):
            out[:, :, first:last] = _convolved(self.conv, lambda a, b: normalise(x[:, :, a:b]), first, last, x.shape[2])
        return out


def strip_rows(x: torch.Tensor) -> int:
    """Rows of a strip of [B, C, H, W], an even number."""
    return max(2, STRIP_NUMBERS // (2 * x[:, :, :1].numel()) * 2)


def _strips(x: torch.Tensor) -> Iterator[tuple[int, int]]:
    height, rows = x.shape[2], strip_rows(x)
    for first in range(0, height, rows):
        yield first, min(height, first + rows)


def _rows_of(x: torch.Tensor) -> Rows:
    return lambda first, last: x[:, :, first:last]


def _residual_block(block: ResnetBlock2D, x: torch.Tensor) -> torch.Tensor:
    height = x.shape[2]
    first_norm = _normaliser(block.norm1, _rows_of(x), x.shape)

    def inner(first: int, last: int) -> torch.Tensor:
        return _convolved(block.conv1, lambda a, b: first_norm(x[:, :, a:b]), first, last, height)

    shape = torch.Size((len(x), block.conv1.out_channels, *x.shape[2:]))
    second_norm = _normaliser(block.norm2, inner, shape)
    out = x.new_empty(shape)
    for first, last in _strips(x):
        changed = _convolved(block.conv2, lambda a, b: second_norm(inner(a, b)), first, last, height)
        kept = x[:, :, first:last]
        kept = kept if block.conv_shortcut is None else block.conv_shortcut(kept)
        out[:, :, first:last] = (kept + changed) / block.output_scale_factor
    return out


def _upsampled(block: Upsample2D, x: torch.Tensor) -> torch.Tensor:
    """Every pixel twice in both directions, then the convolution."""
    height = 2 * x.shape[2]
    out = x.new_empty(len(x), block.conv.out_channels, height, 2 * x.shape[3])

    def doubled(first: int, last: int) -> torch.Tensor:
        start = first // 2
        rows = F.interpolate(x[:, :, start : -(-last // 2)], scale_factor=2.0, mode="nearest")
        return rows[:, :, first - 2 * start : last - 2 * start]

    for first, last in _strips(out):
        out[:, :, first:last] = _convolved(block.conv, doubled, first, last, height)
    return out


def _downsampled(block: Downsample2D, x: torch.Tensor) -> torch.Tensor:
    """Every second pixel of a convolution that looks right and down, beyond the border at zeros."""
    height, width = x.shape[2:]
    out = x.new_empty(len(x), block.conv.out_channels, height // 2, width // 2)
    for first, last in _strips(out):
        rows = x[:, :, 2 * first : 2 * last + 1]
        below = 2 * last + 1 - (2 * first + rows.shape[2])
        out[:, :, first:last] = block.conv(F.pad(rows, (0, 1, 0, below)))
    return out


def _convolved(conv: nn.Conv2d, rows_of: Rows, first: int, last: int, height: int) -> torch.Tensor:
    """Rows of a 3x3 convolution over a map of that height, with zeros around it."""
    above, below = max(0, first - 1), min(height, last + 1)
    rows = F.pad(rows_of(above, below), (1, 1, above - first + 1, last + 1 - below))
    return F.conv2d(rows, conv.weight, conv.bias)


def _normaliser(norm: nn.GroupNorm, rows_of: Rows, shape: torch.Size) -> Callable[[torch.Tensor], torch.Tensor]:
    """silu(norm(x)) of any rows of a map [B, C, H, W], by the statistics of the whole."""
    mean, variance = _statistics(norm.num_groups, rows_of, shape)
    members = shape[1] // norm.num_groups
    mean, variance = (part.repeat_interleave(members, dim=1)[:, :, None, None] for part in (mean, variance))
    scale = norm.weight.float()[:, None, None] * (variance + norm.eps).rsqrt()
    shift = norm.bias.float()[:, None, None] - mean * scale

    def normalise(rows: torch.Tensor) -> torch.Tensor:
        return F.silu(rows.float().mul(scale).add_(shift).to(rows.dtype), inplace=True)

    return normalise


def _statistics(groups: int, rows_of: Rows, shape: torch.Size) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance [B, groups] of a map, its strips' merged as Chan, Golub and LeVeque (1983) do."""
    batch, channels, height, width = shape
    step = max(1, STRIP_NUMBERS // (batch * channels * width))
    mean = variance = torch.zeros((), device="cpu")
    for first in range(0, height, step):
        last = min(height, first + step)
        values = rows_of(first, last).float().reshape(batch, groups, -1)
        own_variance, own_mean = torch.var_mean(values, dim=2, correction=0)
        if first == 0:
            mean, variance = own_mean, own_variance
            continue
        share, gap = (last - first) / last, own_mean - mean
        mean = mean + share * gap
        variance = (1 - share) * variance + share * own_variance + share * (1 - share) * gap.square()
    return mean, variance
