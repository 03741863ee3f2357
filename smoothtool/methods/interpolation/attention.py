"""AID, attention interpolation (He et al. 2024, arXiv:2403.17924), in its fused outer form.

Every frame looks through its own keys and values joined with those of the two ends, in self- and cross-attention:

    (1 - r) Attn(Q, [K, K_0], [V, V_0]) + r Attn(Q, [K, K_1], [V, V_1])

As in the authors' program: in the text half of guidance alone, and in the first half of the steps; behind them frames
are sampled as ever. `everywhere` does it in both halves and all steps, which holds frames closer to the ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain, islice

import torch

from smoothtool.diffusion.attention import (
    AttentionLayer,
    CopiedOnce,
    attention_layers,
    controlled_attention,
    each_within,
    fused_attention,
)
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import DenoisingStep, constant, denoise, per_step
from smoothtool.methods.interpolation.walk import walk_starts, walk_text
from smoothtool.types import Conditioning

WARM_UP = 0.5
"""Part of the steps, rounded down, under interpolated attention."""


@contextmanager
def attention_between_ends(
    unet: torch.nn.Module, ratios: Sequence[float], halves: int, *, text_only: bool = False
) -> Iterator[None]:
    """For a while, every frame of a UNet call attends to the first and last frame of its half too.

    ratios     one per frame of a half, from 0 (first end) to 1 (last end)
    halves     2 when null and text rows come as one batch, null first, else 1
    text_only  null rows, where there are any, attend as ever
    """
    frames = len(ratios)
    last = CopiedOnce(torch.tensor(list(ratios), dtype=torch.float32, device="cpu").view(-1, 1, 1, 1))

    def between(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """All [frames, heads, L, d]; the output of each frame between those with either end's keys and values."""

        def towards(end: int) -> torch.Tensor:
            """Attention with the keys and values of that frame beside each frame's own."""
            both = (torch.cat([own, own[end].expand_as(own)], dim=2) for own in (key, value))
            return fused_attention(query, *both)

        weight = last.like(query)
        return (1 - weight) * towards(0) + weight * towards(frames - 1)

    def attend(layer: AttentionLayer, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Half by half, [halves * frames, heads, L, d]."""
        parts = list(zip(*(part.chunk(halves) for part in (query, key, value)), strict=True))
        plain = len(parts) - 1 if text_only else 0
        attended = [fused_attention(*part) for part in parts[:plain]] + [between(*part) for part in parts[plain:]]
        return torch.cat(attended)

    with controlled_attention(attention_layers(unet), attend, halves * frames):
        yield


def attention_walk_steps(
    model: DiffusionModel,
    noise: torch.Tensor,
    text: Conditioning,
    null: Conditioning,
    null_embeds: torch.Tensor | None,
    ratios: Sequence[float],
    num_inference_steps: int,
    guidance_scale: float,
    *,
    everywhere: bool = False,
    with_adain: bool = False,
) -> Iterator[DenoisingStep]:
    """The walk of `walk_steps` between two ends under interpolated attention; steps hold the in-between frames.

    noise        [2, C, h, w]; text [2, L, D]; null [1, L, D]; null_embeds [N, 1, L, D] or None
    The ends are sampled along with every chunk of frames that one UNet call holds, because the frames look at them.
    """
    halves = 1 if guidance_scale == 1 else 2
    most = max(1, model.max_batch // halves - 2)
    interpolated = num_inference_steps if everywhere else int(WARM_UP * num_inference_steps)

    def sampled(part: Sequence[float]) -> Iterator[DenoisingStep]:
        """Both ends and the frames of these ratios, [part + 2, C, h, w] a step."""
        starts = torch.cat([noise[:1], walk_starts(noise, part, with_adain=with_adain), noise[1:]])
        frame_text = Conditioning.cat([text[:1], walk_text(text, part), text[1:]])
        steps = denoise(
            model, starts, constant(frame_text), per_step(null, null_embeds), num_inference_steps, guidance_scale
        )
        whole = [0.0, *part, 1.0]
        first = each_within(
            islice(steps, interpolated),
            lambda: attention_between_ends(model.unet, whole, halves, text_only=not everywhere),
        )
        return chain(first, steps)

    chunks = [sampled(ratios[at : at + most]) for at in range(0, len(ratios), most)]
    for parts in zip(*chunks, strict=True):
        latents, noise_pred = (
            torch.cat([getattr(part, name)[1:-1] for part in parts]) for name in ("latents", "noise_pred")
        )
        yield replace(parts[0], latents=latents, noise_pred=noise_pred)
