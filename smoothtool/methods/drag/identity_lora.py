"""Identity LoRA: teach the UNet one picture before dragging it, so that what is dragged stays itself.

DragDiffusion (arXiv:2306.14435), section 3.2: a LoRA on the attention projections, fitted for about 80 steps with the
model's own training loss: on the noise, or on the velocity where that is what the UNet predicts. The picture's latents
are encoded once; crops are taken from them. Of crops as large as a model's own pictures two or one go through the UNet
at once, and their gradients are added: the same step, in less memory.

The down matrices start from N(0, 1/rank^2), as in the programs of DragDiffusion and DiffMorpher, whose steps and rates
belong to that start. For rank 16 on SD 1.5, peft's own start has a half to a quarter of that deviation, and since AdamW
moves the up matrices by about the learning rate a step, whatever the start, the UNet would change less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from smoothtool.diffusion.ddim import error_weights, noise_target
from smoothtool.diffusion.lora import add_trainable_lora
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.types import Conditioning
from smoothtool.weights.passes import LEARNED_AT_ONCE, latents_a_side, rows_at_once

IDENTITY = "identity"
"""Name of the adapter on the UNet."""
GRADIENT_SHARE = 64
"""Gradients pass through the UNet as of a mean over so many latents, whatever the picture's size: in float16 those of a
mean over all of SD 1.5's 65,536 were 4 % too short."""


@dataclass(frozen=True)
class FitStep:
    """One step of the fit: the mean squared error of the prediction before it."""

    step: int
    loss: float


def fit_identity_lora(
    model: DiffusionModel,
    latents: torch.Tensor,
    text: Conditioning,
    steps: int,
    generator: torch.Generator,
    rank: int = 16,
    learning_rate: float = 5e-4,
    batch: int = 4,
) -> Iterator[FitStep]:
    """Put the adapter `identity` on the UNet and fit it to the picture.

    latents    [1, C, h, w] of the image, text of batch 1
    generator  on the CPU: noise, times, crops and the LoRA's start all come from it
    """
    parameters = add_trainable_lora(model.unet, rank, adapter=IDENTITY, generator=generator)
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=1e-2)
    side = latents_a_side(model.unet.config)
    try:
        for step in range(steps):
            crops = torch.cat([_crop(latents, side, generator) for _ in range(batch)])
            noise = torch.randn(crops.shape, generator=generator, device="cpu").to(crops)
            times = torch.randint(len(model.schedule.alphas_cumprod), (batch,), generator=generator, device="cpu")
            loss = _gradients(model, crops, noise, times, text, parameters)
            optimizer.step()
            yield FitStep(step, loss)
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
            parameter.grad = None


def _gradients(
    model: DiffusionModel,
    crops: torch.Tensor,
    noise: torch.Tensor,
    times: torch.Tensor,
    text: Conditioning,
    parameters: Sequence[torch.nn.Parameter],
) -> float:
    """Leave the gradient of the mean loss at the parameters, part by part of the batch; that loss."""
    at_once, losses = rows_at_once(crops.shape[-2:], LEARNED_AT_ONCE), []
    scale = noise.numel() / GRADIENT_SHARE
    for parameter in parameters:
        parameter.grad = None
    for start in range(0, len(crops), at_once):
        part = slice(start, start + at_once)
        loss = prediction_loss(model, crops[part], noise[part], text, times[part]) * (len(crops[part]) / len(crops))
        for parameter, gradient in zip(parameters, torch.autograd.grad(scale * loss, parameters), strict=True):
            found = gradient / scale
            parameter.grad = found if parameter.grad is None else parameter.grad + found
        losses.append(loss.detach())
    return sum(float(loss) for loss in losses)  # read when all parts are on their way: reading waits for a GPU


def prediction_loss(
    model: DiffusionModel, crops: torch.Tensor, noise: torch.Tensor, text: Conditioning, times: torch.Tensor
) -> torch.Tensor:
    """Mean squared error of what the UNet predicts, noise or velocity; every crop [B, C, h, w] at its own time [B]."""
    times = times.to(crops.device)
    alpha_prod = model.schedule.alpha_prods(times)
    noisy = alpha_prod.sqrt() * crops + (1 - alpha_prod).sqrt() * noise
    with torch.enable_grad():
        predicted = model.predict_noise(noisy, times, text.expand(len(crops)))
        error = (predicted - noise_target(crops, noise, alpha_prod)).square()
        return (error_weights(alpha_prod, model.schedule.prediction_type) * error).mean()


def _crop(latents: torch.Tensor, side: int, generator: torch.Generator) -> torch.Tensor:
    """A random piece of training size, or all there is in a dimension that is smaller."""
    for dim in (-2, -1):
        spare = max(0, latents.shape[dim] - side)
        start = int(torch.randint(spare + 1, (1,), generator=generator, device="cpu"))
        latents = latents.narrow(dim, start, min(side, latents.shape[dim]))
    return latents
