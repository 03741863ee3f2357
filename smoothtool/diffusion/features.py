"""Temporary changes that remember or read what flows inside the UNet; every one is undone on exit, also on errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from smoothtool.diffusion.model import DiffusionModel
from smoothtool.types import Conditioning


@contextmanager
def replaced_forward(module: torch.nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Give one module another `forward` for a while."""
    had_own = "forward" in module.__dict__
    before = module.forward
    module.forward = forward
    try:
        yield
    finally:
        if had_own:
            module.forward = before
        else:
            del module.forward


@contextmanager
def constant_latents(unet: UNet2DConditionModel) -> Iterator[None]:
    """Promise that latents, batch and time stay the same: what precedes the first cross-attention runs once.

    That is the first convolution, the time embedding, the residual blocks up to the first transformer block, and that
    one up to and with its self-attention: 5 % of SD 1.5 and more of small models. None of it enters the gradient.
    """
    with ExitStack() as stack:
        for module in _before_first_cross_attention(unet):
            stack.enter_context(replaced_forward(module, _remembered(module.forward)))
        yield


def _before_first_cross_attention(unet: UNet2DConditionModel) -> list[torch.nn.Module]:
    modules = [unet.conv_in, unet.time_proj, unet.time_embedding]
    for block in unet.down_blocks:
        if getattr(block, "attentions", None):
            transformer = block.attentions[0]
            first = transformer.transformer_blocks[0]
            return [*modules, block.resnets[0], transformer.norm, transformer.proj_in, first.norm1, first.attn1]
        modules.append(block)
    return modules


def _remembered(forward: Callable[..., Any]) -> Callable[..., Any]:
    results: list[Any] = []

    def once(*args: Any, **kwargs: Any) -> Any:
        if not results:
            with torch.no_grad():
                results.append(forward(*args, **kwargs))
        return results[0]

    return once


class _Enough(Exception):  # noqa: N818  # a signal, not an error
    """The feature is there; the rest of the UNet need not run."""


def predict_with_feature(
    model: DiffusionModel,
    latents: torch.Tensor,
    timestep: int,
    conditioning: Conditioning,
    *,
    whole: bool,
    block: int = -2,
) -> tuple[torch.Tensor | None, torch.Tensor]:
    """The noise, and what leaves a decoder block: the feature that correspondences are seen in.

    whole    False: the UNet stops behind that block, which saves a quarter of SD 1.5, and the noise is None
    block    of the decoder, see `layer_choices`
    Returns eps [B, C, h, w] or None, and the feature [B, C', h, w], both float32 and differentiable in the latents.
    """
    kept: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        kept.append(output.float())
        if not whole:
            raise _Enough

    noise, hook = None, model.unet.up_blocks[block].register_forward_hook(keep)
    try:
        with torch.enable_grad():  # never split into smaller batches
            noise = model.predict_noise(latents, timestep, conditioning)
    except _Enough:
        pass
    finally:
        hook.remove()
    return noise, kept[0]
