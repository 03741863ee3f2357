"""Null-text inversion in the order of work of the published programs: one picture after another, nothing reused.

Written from the description of the algorithm; the witness of the tests and the other side of the benchmark.
"""

from __future__ import annotations

import torch

from smoothtool.diffusion.ddim import ddim_step
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.types import Conditioning, LatentTrajectory


def reference_null_text(
    model: DiffusionModel,
    trajectory: LatentTrajectory,
    text: Conditioning,
    null: Conditioning,
    guidance_scale: float,
    *,
    inner_steps: int = 10,
) -> list[tuple[torch.Tensor, list[float]]]:
    """Per step the shared null embedding [1, L, D] and the loss of every inner step."""
    count = len(trajectory.timesteps)
    pictures = range(len(trajectory.noise))
    latents = [trajectory.noise[[b]] for b in pictures]
    embeds, results = null.prompt_embeds, []

    def guided(b: int, timestep: int, candidate: torch.Tensor) -> torch.Tensor:
        noise_null = model.predict_noise(latents[b], timestep, null.with_embeds(candidate))
        noise_text = model.predict_noise(latents[b], timestep, text[[b]])
        return noise_null + guidance_scale * (noise_text - noise_null)

    for index, (timestep, alpha_from, alpha_to) in enumerate(model.schedule.alpha_pairs(count)):
        embeds = embeds.detach().clone().requires_grad_(True)
        optimizer = torch.optim.Adam([embeds], lr=1e-2 * (1 - index / 100))
        losses: list[float] = []
        for _ in range(inner_steps):
            loss = torch.zeros((), dtype=latents[0].dtype)
            for b in pictures:
                moved = ddim_step(latents[b], guided(b, timestep, embeds), alpha_from, alpha_to)
                loss = loss + torch.nn.functional.mse_loss(moved, trajectory.entering(index + 1)[[b]])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if losses[-1] < 1e-5 + 2e-5 * index:
                break
        with torch.no_grad():
            latents = [ddim_step(latents[b], guided(b, timestep, embeds), alpha_from, alpha_to) for b in pictures]
        results.append((embeds.detach(), losses))
    return results
