"""What a batch is made of: cached examples with the noise, times and captions that follow from (seed, number)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from smoothtool.diffusion.ddim import error_weights
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.methods.smoothness.step_variation import NoisyBatch
from smoothtool.training.examples import Examples
from smoothtool.training.order import draw
from smoothtool.types import Conditioning


def drawn_batch(
    model: DiffusionModel,
    examples: Examples,
    indices: Sequence[int],
    part: slice,
    number: int,
    *,
    seed: int,
    prompt_dropout: float,
) -> tuple[NoisyBatch, torch.Tensor, Conditioning]:
    """(batch, timesteps [B], captions) of the `part` of batch `number` that this process has, on the model's device.

    indices  of the whole batch, which all processes draw for alike
    """
    means, deviations = (
        torch.stack(values) for values in zip(*(examples.posterior(i) for i in indices[part]), strict=True)
    )
    schedule, device = model.schedule, model.device
    draws = draw(seed, number, (len(indices), *means.shape[1:]), len(schedule.alphas_cumprod)).rows(part)
    rows = [
        0 if dropped < prompt_dropout else own[int(choice * len(own))]
        for own, choice, dropped in zip(
            (examples.captions[index] for index in indices[part]),
            draws.caption.tolist(),
            draws.dropped.tolist(),
            strict=True,
        )
    ]
    abar = schedule.alpha_prods(draws.timesteps).flatten()
    weights = error_weights(abar, schedule.prediction_type)
    latents = means + deviations * draws.posterior_noise
    batch = NoisyBatch(*(value.to(device) for value in (latents, draws.noise, draws.probe, abar, weights)))
    text = examples.conditioning(indices[part], rows).map(lambda values: values.to(device))
    return batch, draws.timesteps.to(device), text
