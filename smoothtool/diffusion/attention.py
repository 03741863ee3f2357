"""The attention layers of a UNet, and temporary changes to what they compute; every one is undone on exit.

The projections to_q, to_k, to_v and to_out stay the UNet's own modules, so an active LoRA (which sits on them) stays
active under every control. Nothing is installed while no control is active.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention

from smoothtool.errors import MemoryExhaustedError

T = TypeVar("T")
SD_TRANSFORMER_BLOCKS = 16
"""Transformer blocks of SD 1.x and 2.x: 6 down, 1 mid, 9 up. Published layer numbers count these."""


@dataclass(frozen=True)
class AttentionLayer:
    """One attention of the UNet.

    block_index   of its transformer block, in execution order: SD 1.5 has 0..15
    part          "down", "mid" or "up"
    downsampling  latents per attention token and side: 1, 2, 4, …
    """

    name: str
    module: Attention
    block_index: int
    part: str
    downsampling: int
    is_cross: bool


def attention_layers(unet: UNet2DConditionModel) -> list[AttentionLayer]:
    """Every attention of the transformer blocks in execution order: down, mid, up; self before cross."""
    layers: list[AttentionLayer] = []
    for prefix, part, downsampling, block in _stages(unet):
        for at, transformer in enumerate(getattr(block, "attentions", None) or []):
            for within, inner in enumerate(transformer.transformer_blocks):
                index = layers[-1].block_index + 1 if layers else 0
                name = f"{prefix}.attentions.{at}.transformer_blocks.{within}"
                layers.append(AttentionLayer(f"{name}.attn1", inner.attn1, index, part, downsampling, False))
                layers.append(AttentionLayer(f"{name}.attn2", inner.attn2, index, part, downsampling, True))
    return layers


def _stages(unet: Any) -> list[tuple[str, str, int, torch.nn.Module]]:
    """(name, part, downsampling, block) in execution order."""
    stages: list[tuple[str, str, int, torch.nn.Module]] = []
    downsampling = 1
    for at, block in enumerate(unet.down_blocks):
        stages.append((f"down_blocks.{at}", "down", downsampling, block))
        downsampling *= 2 if block.downsamplers else 1
    if unet.mid_block is not None:
        stages.append(("mid_block", "mid", downsampling, unet.mid_block))
    for at, block in enumerate(unet.up_blocks):
        stages.append((f"up_blocks.{at}", "up", downsampling, block))
        downsampling //= 2 if block.upsamplers else 1
    return stages


def block_like_sd(unet: UNet2DConditionModel, sd_block: int) -> int:
    """The transformer block as deep in this UNet as block `sd_block` of 16 is in SD 1.5; itself for SD 1.5."""
    count = attention_layers(unet)[-1].block_index + 1
    return round(sd_block * count / SD_TRANSFORMER_BLOCKS)


Attend = Callable[[AttentionLayer, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""(layer, query [B, heads, Q, d], key [B, heads, K, d], value [B, heads, K, d]) -> [B, heads, Q, d]."""


def fused_attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """softmax(Q K^T / sqrt(d)) V by the fastest kernel there is."""
    return F.scaled_dot_product_attention(query, key, value)


def attention_probs(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """A = softmax(Q K^T / sqrt(d)), [B, heads, Q, K], for controls that read or change it; A @ V is the output."""
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-1, -2)  # scaled first: float16 ends at 65504
    return scores.float().softmax(dim=-1).to(query.dtype)


def require_rows(found: int, wanted: int) -> None:
    """Refuse a UNet call that was split to fit memory: rows that are meant to see each other would not."""
    if found != wanted:
        raise MemoryExhaustedError(
            f"this method needs {wanted} rows in one UNet call, and they do not fit into memory",
            "a smaller --size, or --dtype float16",
        )


class CopiedOnce:
    """Numbers for a control, copied to a device when first used there: every copy waits for all queued work."""

    def __init__(self, values: torch.Tensor) -> None:
        self._values = values
        self._there: dict[tuple[torch.device, torch.dtype], torch.Tensor] = {}

    def like(self, other: torch.Tensor) -> torch.Tensor:
        """On that tensor's device, in its dtype; whole numbers, which are an index, stay whole."""
        dtype = other.dtype if self._values.is_floating_point() else self._values.dtype
        key = (other.device, dtype)
        if key not in self._there:
            self._there[key] = self._values.to(dtype).to(other.device)
        return self._there[key]


@contextmanager
def controlled_attention(layers: Iterable[AttentionLayer], attend: Attend, batch: int) -> Iterator[None]:
    """Let `attend` compute the attention of these layers for a while.

    batch  rows of every UNet call inside: controls mix rows, so a call must not be split to fit memory
    Raises: MemoryExhaustedError when a call arrives with other rows, which means that it was split.
    """
    replaced: list[tuple[Any, Any]] = []
    try:
        for layer in layers:
            replaced.append((layer.module, layer.module.processor))
            replaced[-1][0].set_processor(_Processor(layer, attend, batch))
        yield
    finally:
        for module, before in reversed(replaced):
            module.set_processor(before)


def each_within(steps: Iterator[T], control: Callable[[], AbstractContextManager[None]]) -> Iterator[T]:
    """The same steps, each made under a control of its own: between two of them the UNet is as it was."""
    while True:
        with control():
            step = next(steps, None)
        if step is None:
            return
        yield step


class _Processor:
    """Project, let the control attend, project back: what diffusers' own processor does inside transformer blocks."""

    def __init__(self, layer: AttentionLayer, attend: Attend, batch: int) -> None:
        self.layer, self.attend, self.batch = layer, attend, batch

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        require_rows(len(hidden_states), self.batch)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for projected in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        attended = self.attend(self.layer, query, key, value).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](attended))


@contextmanager
def mutual_self_attention(unet: UNet2DConditionModel, rows: Sequence[int], from_layer: int) -> Iterator[None]:
    """Batch row b looks through the keys and values of row rows[b] (MasaCtrl, arXiv:2304.08465; DragDiffusion).

    rows        one index per batch row of every UNet call inside
    from_layer  first transformer block that does so; see `block_like_sd` for numbers that papers give
    """
    layers = [la for la in attention_layers(unet) if not la.is_cross and la.block_index >= from_layer]

    def attend(layer: AttentionLayer, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        key, value = (torch.cat([part[row : row + 1] for row in rows]) for part in (key, value))
        return fused_attention(query, key, value)

    with controlled_attention(layers, attend, len(rows)):
        yield
