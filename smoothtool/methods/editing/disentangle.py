"""Diffusion disentanglement: learn when to listen to the target prompt, one number per step.

Wu et al., Uncovering the Disentanglement Capability in Text-to-Image Diffusion Models, CVPR 2023 (arXiv:2212.08698),
eqs. 4 to 7. The UNet hears at step i

    c_i = lambda_i c_source + (1 - lambda_i) c_target,      lambda = 1 for the first 2/5 of the steps, then 0, at first

and only lambda [N] is learned, by Adam on a loss of the finished picture: 0.05 times its perceptual distance to the
original plus one minus the cosine between the change of the picture and the change of the text, both in CLIP's space.
Back-propagation recomputes each step's UNet (checkpointing), so memory is one UNet's and not N.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.utils.checkpoint import checkpoint

from smoothtool.diffusion.ddim import ddim_step
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import ConditioningAt, guide
from smoothtool.types import Conditioning

SOURCE_PART = 0.4
"""20 of the paper's 50 steps."""

PictureLoss = Callable[[torch.Tensor], torch.Tensor]
"""pixel_values [1, 3, H, W] in [-1, 1] -> a scalar, differentiable."""


@dataclass(frozen=True)
class DisentangleStep:
    """One epoch: the picture's latents [1, C, h, w] under `mixing` [N], and their loss."""

    epoch: int
    latents: torch.Tensor
    mixing: torch.Tensor
    loss: float


def first_mixing(num_inference_steps: int) -> torch.Tensor:
    """lambda before learning, [N]."""
    return (torch.arange(num_inference_steps, device="cpu") < SOURCE_PART * num_inference_steps).float()


def disentangle_steps(
    model: DiffusionModel,
    start: torch.Tensor,
    source: Conditioning,
    target: Conditioning,
    null_at: ConditioningAt,
    num_inference_steps: int,
    guidance_scale: float,
    loss_of: PictureLoss,
    epochs: int = 10,
    learning_rate: float = 0.05,
) -> Iterator[DisentangleStep]:
    """Every epoch samples once, and all but the last back-propagate: 2 N guided UNet calls. The caller keeps the best.

    start  [1, C, h, w] the noise end of an inversion; source and target [1, L, D]
    """
    mixing = first_mixing(num_inference_steps).to(start).requires_grad_(True)
    optimizer = torch.optim.Adam([mixing], lr=learning_rate)
    for epoch in range(epochs):
        used = mixing.detach().clone()
        with torch.enable_grad():
            latents = _sample(model, start, source, target, null_at, num_inference_steps, guidance_scale, mixing)
            loss = loss_of(model.decode_latents_with_gradient(latents))
            if epoch < epochs - 1:  # after the last there is nothing left to learn for
                (mixing.grad,) = torch.autograd.grad(loss, mixing)
                optimizer.step()
        yield DisentangleStep(epoch, latents.detach(), used, float(loss.detach()))


def _sample(
    model: DiffusionModel,
    latents: torch.Tensor,
    source: Conditioning,
    target: Conditioning,
    null_at: ConditioningAt,
    num_inference_steps: int,
    guidance_scale: float,
    mixing: torch.Tensor,
) -> torch.Tensor:
    """The finished latents, differentiable in `mixing`."""
    pairs = model.schedule.alpha_pairs(num_inference_steps)

    def step(z: torch.Tensor, share: torch.Tensor, index: int) -> torch.Tensor:
        """One guided DDIM step of z [1, C, h, w] under the mixture in which the source has that share."""
        t, alpha_from, alpha_to = pairs[index]
        mixed = source.combine(target, lambda old, new: share * old + (1 - share) * new)
        both = Conditioning.cat([null_at(index), mixed])
        noise_null, noise_text = model.predict_noise(torch.cat([z, z]), t, both).chunk(2)
        return ddim_step(z, guide(noise_null, noise_text, guidance_scale), alpha_from, alpha_to)

    for index in range(num_inference_steps):
        latents = checkpoint(step, latents, mixing[index], index, use_reentrant=False)
    return latents
