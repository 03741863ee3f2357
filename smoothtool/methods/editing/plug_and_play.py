"""Plug-and-Play: the target is built on the source's decoder features and self-attention.

Tumanyan et al., Plug-and-Play Diffusion Features for Text-Driven Image-to-Image Translation, CVPR 2023
(arXiv:2211.12572), algorithm 1. The source is inverted under the empty prompt, and its latents of every step are kept.
While i < 0.8 N the convolution feature of decoder layer 4 is the source's (up_blocks[1].resnets[1], after conv2, before
the residual is added), and while i < 0.5 N so are the self-attention queries and keys of decoder layers 4 to 11 (from
up_blocks[1] attention 1 on). Values are the target's own. These are SD's layers; `layer_choices` has others'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch

from smoothtool.diffusion.attention import (
    AttentionLayer,
    attention_layers,
    controlled_attention,
    fused_attention,
    require_rows,
)
from smoothtool.diffusion.ddim import ddim_step
from smoothtool.diffusion.features import replaced_forward
from smoothtool.diffusion.layers import layer_choices
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import DenoisingStep, guide
from smoothtool.types import Conditioning, LatentTrajectory

ROWS = 3  # the source under the empty prompt, the target's null half, the target's text half


@torch.no_grad()
def plug_and_play_steps(
    model: DiffusionModel,
    trajectory: LatentTrajectory,
    source: Conditioning,
    target: Conditioning,
    null: Conditioning,
    guidance_scale: float,
    feature_ratio: float = 0.8,
    attention_ratio: float = 0.5,
) -> Iterator[DenoisingStep]:
    """One UNet call of three rows a step.

    trajectory  the pivots of an inversion of one picture under the empty prompt
    source      [1, L, D] the empty prompt, under which it was inverted; null [1, L, D] of the target's guidance
    *_ratio     in [0, 1], the part of the steps with injection
    """
    steps, latents = len(trajectory.timesteps), trajectory.noise
    choices = layer_choices(model.unet)
    queries = [layer for layer in attention_layers(model.unet) if layer.name in choices.query_layers]
    rows = Conditioning.cat([source, null, target])
    for index, (t, alpha_from, alpha_to) in enumerate(model.schedule.alpha_pairs(steps)):
        with ExitStack() as stack:
            if index < feature_ratio * steps:
                stack.enter_context(_source_features(model.unet, choices.feature_resnets))
            if index < attention_ratio * steps:
                stack.enter_context(controlled_attention(queries, _source_queries, ROWS))
            batch = torch.cat([trajectory.entering(index), latents, latents])
            _, noise_null, noise_text = model.predict_noise(batch, t, rows).chunk(ROWS)
        noise_pred = guide(noise_null, noise_text, guidance_scale)
        latents = ddim_step(latents, noise_pred, alpha_from, alpha_to)
        yield DenoisingStep(index, t, latents, noise_pred)


@contextmanager
def _source_features(unet: torch.nn.Module, resnets: Sequence[str]) -> Iterator[None]:
    """All rows take the source's output of conv2 in these residual blocks."""
    with ExitStack() as stack:
        for name in resnets:
            convolution = unet.get_submodule(f"{name}.conv2")
            stack.enter_context(replaced_forward(convolution, _of_source(convolution.forward)))
        yield


def _of_source(forward: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    def of_source(hidden_states: torch.Tensor) -> torch.Tensor:
        """[3, C', h', w'] -> [3, C'', h', w'], the first row's three times."""
        require_rows(len(hidden_states), ROWS)
        return forward(hidden_states[:1]).expand(len(hidden_states), -1, -1, -1)

    return of_source


def _source_queries(layer: AttentionLayer, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """query, key, value [3, heads, Q, d]: every row looks with the source's maps at values of its own."""
    return fused_attention(query[:1].expand_as(query), key[:1].expand_as(key), value)
