"""What one pass of a UNet or VAE holds in memory, read from its config.json; no weight is read, torch is not needed.

The layers are walked as diffusers builds them, and the maps counted that are alive at once: in a forward pass the skip
connections and what one layer works on; for a backward pass every input that autograd keeps of frozen layers:

    residual block C -> D     2 C + 3 D  (norm, silu, conv, norm, silu) and its output, D
    transformer block         17 C a token: q, k, v, output and residual of self-attention 5, of cross-attention 4,
                              GEGLU 8 (see `diffusion.feed_forward`); attention is fused, so that no map of tokens by
                              tokens exists

Gradient checkpointing (Chen et al. 2016, arXiv:1604.06174) keeps the inputs of the blocks, and one block's inside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

FUSED_BLOCK, LORA_ON_BLOCK = 17, 6
"""Maps [tokens, C] that autograd keeps of a transformer block, and inputs of projections that LoRAs keep on top."""
WORKED_ON = 21
"""Maps [tokens, C] alive in a transformer block without gradients, when GEGLU holds 16 of them."""
ON_THE_WAY_BACK = 3
"""Maps of the widest layer that a backward pass adds to what was kept for it."""
STRIP_NUMBERS, STRIPS = 2**24, 6
"""Of a map that the VAE works on strip by strip, see `diffusion.strips`, and how many strips are alive at once."""
TEXT_TOKENS = 77
LEARNED_AT_ONCE = 2 * 64 * 64
"""Places of latents in one backward pass of learning a picture: two of SD 1.5's crops, one of SDXL's."""
DRAWN_AT_ONCE = 1024 * 1024
"""Pixels in one pass of the VAE, or one picture: what is larger keeps a GPU no busier."""


@dataclass(frozen=True)
class Held:
    """How many numbers a pass holds at most, for one row.

    forward       without gradients
    backward      with gradients, at the end of the forward pass, and a little more
    checkpointed  the same with gradient checkpointing
    lora          what LoRAs on the attention projections add to `backward`; `lora_inside`, to `checkpointed`
    maps          of the cross-attentions, if they were kept: heads x tokens x words, of all layers
    square_maps   of the self-attentions, if they were not fused: heads x tokens x tokens
    projected     inputs and outputs of the attention projections together: times a rank, the size of a LoRA, which
                  does not depend on the picture's
    """

    forward: float
    backward: float
    checkpointed: float = 0.0
    lora: float = 0.0
    lora_inside: float = 0.0
    maps: float = 0.0
    square_maps: float = 0.0
    projected: float = 0.0


def latents_a_side(unet: Mapping[str, Any]) -> int:
    """Of the square pictures that a UNet of that config was trained on; the longer side where it says two."""
    sides = unet.get("sample_size") or 64
    return int(max(sides) if isinstance(sides, Sequence) else sides)


def rows_at_once(size: Sequence[int], most: int) -> int:
    """How many maps of (height, width) have at most so many places together; one in any case."""
    return max(1, most // (size[0] * size[1]))


class _Walk:
    """Adds up layer after layer. `skips` are the maps that wait for the decoder, `entered` what came into the block."""

    def __init__(self, context: int = 0) -> None:
        self.context = context
        self.skips: list[tuple[float, float]] = []
        self.entered = self.forward = self.kept = self.inputs = self.inside = self.lora = self.lora_inside = 0.0
        self.widest = self.maps = self.square_maps = self.projected = 0.0

    def works(self, numbers: float) -> None:
        """So much is alive at once, besides what waits."""
        waiting = sum(width * area for width, area in self.skips)
        self.forward = max(self.forward, waiting + self.entered + numbers)

    def map(self, numbers: float) -> None:
        """A map that is kept between the blocks."""
        self.kept += numbers
        self.inputs += numbers
        self.widest = max(self.widest, numbers)

    def residual(self, width: int, out: int, area: float) -> None:
        self.works(area * (width + max(2 * width, 3 * out)))
        inside = area * (2 * width + 3 * out)
        self.kept += inside
        self.inside = max(self.inside, inside)
        self.map(area * out)

    def transformer(self, width: int, depth: int, heads: float, linear: bool, area: float) -> None:
        self.works(area * width * WORKED_ON)
        self.kept += area * width * depth * (FUSED_BLOCK - 1)
        self.inside = max(self.inside, area * width * (FUSED_BLOCK - 1))
        self.lora += area * width * depth * LORA_ON_BLOCK
        self.lora_inside = max(self.lora_inside, area * width * LORA_ON_BLOCK)
        self.maps += area * TEXT_TOKENS * heads * depth
        self.square_maps += area * area * heads * depth
        self.projected += depth * (14 * width + 2 * self.context)
        for _ in range(depth + 1 + (not linear)):  # between the inner blocks, behind them, and before a convolution
            self.map(area * width)

    def held(self) -> Held:
        back = ON_THE_WAY_BACK * self.widest
        return Held(
            self.forward,
            self.kept + back,
            self.inputs + self.inside + back,
            self.lora,
            self.lora_inside,
            self.maps,
            self.square_maps,
            self.projected,
        )


def unet_pass(config: Mapping[str, Any], latent_size: tuple[int, int], left_out: int = 0) -> Held:
    """A UNet2DConditionModel at latents of (height, width).

    left_out  blocks at the end of the decoder that are not passed: 1 where only the features of a drag are wanted
    Raises: KeyError, TypeError, ValueError, IndexError when the config is not of that kind.
    """
    widths = [int(width) for width in config["block_out_channels"]]
    down, up = list(config["down_block_types"]), list(config["up_block_types"])
    layers = _each(config.get("layers_per_block", 2), len(widths))
    depths = _each(config.get("transformer_layers_per_block", 1), len(widths))
    # diffusers' own names are mixed up: what configs call the heads' size is their number
    heads = _each(config.get("num_attention_heads") or config.get("attention_head_dim", 8), len(widths))
    linear = bool(config.get("use_linear_projection"))
    walk = _Walk(int(config["cross_attention_dim"]))
    area, width, last = float(latent_size[0] * latent_size[1]), widths[0], len(widths) - 1
    walk.map(area * width)
    walk.skips.append((width, area))
    for level, kind in enumerate(down):
        walk.entered = 0.0  # it waits as a skip anyway
        for _ in range(layers[level]):
            walk.residual(width, widths[level], area)
            width = widths[level]
            if "CrossAttn" in kind:
                walk.transformer(width, depths[level], heads[level], linear, area)
            walk.skips.append((width, area))
        if level < last:
            area /= 4
            walk.map(area * width)
            walk.skips.append((width, area))
    walk.residual(width, width, area)
    if any("CrossAttn" in kind for kind in (*down, *up)):
        walk.transformer(width, depths[-1], heads[-1], linear, area)
    walk.residual(width, width, area)
    for level, kind in zip(range(last, left_out - 1, -1), up[: len(up) - left_out], strict=True):
        walk.entered = area * width
        for _ in range(layers[level] + 1):
            both = width + int(walk.skips.pop()[0])
            walk.map(area * both)
            walk.residual(both, widths[level], area)
            width = widths[level]
            if "CrossAttn" in kind:
                walk.transformer(width, depths[level], heads[level], linear, area)
        if level:
            area *= 4
            walk.works(2 * area * width)
            walk.map(area * width)
    if not left_out:
        walk.map(area * width)
        walk.map(area * width)
    return walk.held()


def encoder_pass(config: Mapping[str, Any], size_px: tuple[int, int], tiled: bool = False) -> Held:
    """The encoder of an AutoencoderKL, for a picture of (height, width)."""
    widths, layers = [int(width) for width in config["block_out_channels"]], int(config.get("layers_per_block", 2))
    walk, area, width = _Walk(), float(size_px[0] * size_px[1]), widths[0]
    walk.map(area * width)
    for level, out in enumerate(widths):
        walk.entered = area * width
        for _ in range(layers):
            _coder_block(walk, width, out, area, tiled)
            width = out
        if level < len(widths) - 1:
            area /= 4
            walk.map(area * width)
    return walk.held()


def decoder_pass(config: Mapping[str, Any], size_px: tuple[int, int], tiled: bool = False) -> Held:
    """The decoder of an AutoencoderKL, to a picture of (height, width)."""
    widths, layers = [int(width) for width in config["block_out_channels"]], int(config.get("layers_per_block", 2))
    walk, width = _Walk(), widths[-1]
    area = float(size_px[0] * size_px[1]) / 4 ** (len(widths) - 1)
    walk.map(area * width)
    for level in range(len(widths) - 1, -1, -1):
        walk.entered = 0.0
        for number in range(layers + 1):
            _coder_block(walk, width, widths[level], area, tiled)
            walk.entered = area * width if number == 0 else walk.entered
            width = widths[level]
        if level:
            area *= 4
            walk.works(area * width * (1 if tiled else 2))
            walk.map(area * width)
            walk.map(area * width)
    walk.map(area * width)
    walk.map(area * width)
    return walk.held()


def _coder_block(walk: _Walk, width: int, out: int, area: float, tiled: bool) -> None:
    before = walk.forward
    walk.residual(width, out, area)
    if tiled and area * width > STRIP_NUMBERS:  # a map goes in, a map comes out; strips are worked on
        walk.forward = before
        walk.works(area * (width + out) + STRIPS * STRIP_NUMBERS)


def _each(value: Any, count: int) -> list[int]:
    """One number for all levels, or a list of them."""
    values = list(value) if isinstance(value, (list, tuple)) else [value] * count
    return [int(one) for one in values]
