"""MasaCtrl: the target keeps the source's appearance by looking it up through mutual self-attention.

Cao et al., MasaCtrl: Tuning-Free Mutual Self-Attention Control, ICCV 2023 (arXiv:2304.08465), section 4.1: from step S
and layer L on, the target's self-attention keeps its own queries and takes the source's keys and values. Poses and
actions change, the thing stays the same. The program's S = 4 and L = 10 (of SD's 16) are the defaults.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import torch

from smoothtool.diffusion.attention import mutual_self_attention
from smoothtool.diffusion.ddim import ddim_step
from smoothtool.diffusion.layers import layer_choices
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import DenoisingStep
from smoothtool.methods.inversion.resume import guidance_rule, null_branch
from smoothtool.types import Conditioning, Inversion

ROWS = (0, 0, 2, 2)  # of null source, null target, text source, text target: each half looks at its own source


@torch.no_grad()
def masactrl_steps(
    model: DiffusionModel,
    inversion: Inversion,
    path: torch.Tensor,
    source: Conditioning,
    target: Conditioning,
    null: Conditioning,
    guidance_scale: float,
    start_step: int = 4,
    start_layer: int | None = None,
) -> Iterator[DenoisingStep]:
    """One UNet call of four rows a step; the source row stays on its path.

    path         [N+1, 1, C, h, w] latents of the source in sampling order, see `source_path`
    start_layer  transformer block of this UNet; None: as deep in it as 10 is in SD's 16
    """
    null_at, rule = null_branch(inversion, null), guidance_rule(inversion)
    layer = layer_choices(model.unet).mutual_from if start_layer is None else start_layer
    latents = path[0]
    for index, (t, alpha_from, alpha_to) in enumerate(model.schedule.alpha_pairs(inversion.num_inference_steps)):
        both = torch.cat([path[index], latents])
        rows = Conditioning.cat([null_at(index), null_at(index), source, target])
        looking = mutual_self_attention(model.unet, ROWS, layer) if index >= start_step else nullcontext()
        with looking:
            noise = model.predict_noise(torch.cat([both, both]), t, rows)
        noise_pred = rule(noise[1:2], noise[3:], guidance_scale)
        latents = ddim_step(latents, noise_pred, alpha_from, alpha_to)
        yield DenoisingStep(index, t, latents, noise_pred)
