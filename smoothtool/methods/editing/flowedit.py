"""FlowEdit: carry the picture along the difference of what target and source prompt would make of it; no inversion.

Kulikov et al., FlowEdit: Inversion-Free Text-Based Editing Using Pre-Trained Flow Models, ICCV 2025 (arXiv:2412.08629),
algorithm 1, on a UNet. A diffusion model is a flow in other coordinates: with a = sqrt(abar), n = sqrt(1 - abar),

    tau = n / (a + n)      z_flow = z / (a + n) = (1 - tau) x + tau eps      v = eps - x0_hat

and from z = x, the picture, with fresh noise eps at every step tau -> tau',

    z_src = (1 - tau) x + tau eps      z_tar = z + z_src - x      z += (tau' - tau) (v_tar - v_src)

v_src and v_tar are guided by scales of their own. The last step ends at tau' = 0. Our `strength` is the program's
n_max / N with n_avg = 1 and n_min = 0: its 33 of 50 steps of Stable Diffusion 3's shifted schedule begin at tau = 0.85;
0.8 of SD 1.5's begin at 0.82. Its guidance scales for that model are 3.5 and 13.5; ours for the source is half of the
target's, which on the embedded model's scenes beat 3.5 beside 3 in every figure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from smoothtool.diffusion.ddim import pred_noise, pred_original_sample
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import DenoisingStep, guide, noise_like
from smoothtool.methods.editing.sdedit import start_index
from smoothtool.types import Conditioning


@torch.no_grad()
def flowedit_steps(
    model: DiffusionModel,
    latents: torch.Tensor,
    source: Conditioning,
    target: Conditioning,
    null: Conditioning,
    num_inference_steps: int,
    guidance_scale: float,
    generators: Sequence[torch.Generator],
    source_guidance_scale: float | None = None,
    strength: float = 0.8,
) -> Iterator[DenoisingStep]:
    """The edited latents after every step, free of noise all along; four rows a picture in one UNet call a step.

    latents                [B, C, h, w] of the pictures; source and target are B rows, null is one or B
    guidance_scale         of the target
    generators             one a picture, on the CPU: it draws the noise of every step
    source_guidance_scale  half of the target's unless given
    strength               s in [0, 1]: the last int(N s) steps are taken; 0 changes nothing and yields nothing
    """
    null = null.expand(len(latents))
    scale_of_source = guidance_scale / 2 if source_guidance_scale is None else source_guidance_scale
    pairs, rows = model.schedule.alpha_pairs(num_inference_steps), Conditioning.cat([null, source, null, target])
    edited = latents
    for step_index in range(start_index(strength, num_inference_steps), num_inference_steps):
        t, alpha_prod, alpha_prod_next = pairs[step_index]
        last = step_index + 1 == num_inference_steps
        tau, tau_next = flow_time(alpha_prod), 0.0 if last else flow_time(alpha_prod_next)
        noise = noise_like(latents, generators)
        noised = alpha_prod**0.5 * latents + (1 - alpha_prod) ** 0.5 * noise
        moved = noised + (alpha_prod**0.5 + (1 - alpha_prod) ** 0.5) * (edited - latents)
        predicted = model.predict_noise(torch.cat([noised, noised, moved, moved]), t, rows).chunk(4)
        noise_source = guide(predicted[0], predicted[1], scale_of_source)
        noise_target = guide(predicted[2], predicted[3], guidance_scale)
        difference = _velocity(moved, noise_target, alpha_prod) - _velocity(noised, noise_source, alpha_prod)
        edited = edited + (tau_next - tau) * difference
        yield DenoisingStep(step_index, t, edited, noise_target)


def flow_time(alpha_prod: float) -> float:
    """tau = n / (a + n), from 0 (the picture) to 1 (noise)."""
    signal, noise = alpha_prod**0.5, (1 - alpha_prod) ** 0.5
    return noise / (signal + noise)


def _velocity(latents: torch.Tensor, noise_pred: torch.Tensor, alpha_prod: float) -> torch.Tensor:
    """v = eps - x0_hat, [B, C, h, w], which moves z_flow."""
    noise = pred_noise(latents, noise_pred, alpha_prod)
    return noise - pred_original_sample(latents, noise_pred, alpha_prod)
