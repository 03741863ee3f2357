"""SDEdit: add noise to the picture and denoise it under the target prompt.

Meng et al., SDEdit: Guided Image Synthesis and Editing with Stochastic Differential Equations, ICLR 2022
(arXiv:2108.01073), in its latent form (img2img):  z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps,  t at N - int(N s).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from smoothtool.diffusion.ddim import add_noise
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import DenoisingStep, constant, denoise
from smoothtool.types import Conditioning


def start_index(strength: float, num_inference_steps: int) -> int:
    """The step to begin with: N - int(N s). Rounded first: 50 * 0.58 is 28.999999999999996 in floating point."""
    return num_inference_steps - int(round(num_inference_steps * strength, 9))


def sdedit_steps(
    model: DiffusionModel,
    latents: torch.Tensor,
    noise: torch.Tensor,
    target: Conditioning,
    null: Conditioning,
    strength: float,
    num_inference_steps: int,
    guidance_scale: float,
) -> Iterator[DenoisingStep]:
    """Denoise from strength s in [0, 1]; 0 changes nothing and yields nothing.

    latents  [B, C, h, w] of the picture; noise of the same shape, standard normal
    """
    start = start_index(strength, num_inference_steps)
    if start == num_inference_steps:
        return
    alpha_prod = model.schedule.alpha_pairs(num_inference_steps)[start][1]
    noisy = add_noise(latents, noise, alpha_prod)
    yield from denoise(model, noisy, constant(target), constant(null), num_inference_steps, guidance_scale, start)
