"""Null-text inversion: tune the null embedding of every step so that guided sampling follows the DDIM pivots.

Mokady et al., Null-text Inversion, CVPR 2023 (arXiv:2211.09794), algorithm 1; shared between pictures as in
Guo et al., Smooth Diffusion, CVPR 2024 (arXiv:2312.04410), eqs. 19 and 20:

    null_i = argmin  sum_b  mean (ddim_step(zbar_b, eps_guided(zbar_b, text_b, null)) - z*_{N-i-1, b})^2

One null embedding per step, warm-started from the step before. The text prediction does not depend on it, so it is
computed once a step; pictures run as one batch; what precedes the first cross-attention is computed once a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch

from smoothtool.diffusion.ddim import ddim_step, noise_coefficient
from smoothtool.diffusion.features import constant_latents
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import guide
from smoothtool.types import Conditioning, LatentTrajectory


@dataclass(frozen=True)
class NullTextStep:
    """Sampling step `step_index` is fitted: its `null_embeds` [1, L, D], and where guided sampling now stands.

    latents  [B, C, h, w] zbar after the step
    losses   the objective before each inner step, and after the last one
    """

    step_index: int
    timestep: int
    latents: torch.Tensor
    null_embeds: torch.Tensor
    losses: tuple[float, ...]


@dataclass(frozen=True)
class InnerProblem:
    """One step's least-squares problem in the null embedding, everything else held fixed.

    `noise_of(null)` is the UNet; the residual is `offset + slope * noise_of(null)`, [B, C, h, w].
    """

    noise_of: Callable[[torch.Tensor], torch.Tensor]
    offset: torch.Tensor
    slope: float
    threshold: float

    def residual(self, noise_null: torch.Tensor) -> torch.Tensor:
        return self.offset + self.slope * noise_null

    def loss(self, noise_null: torch.Tensor) -> torch.Tensor:
        """Sum over pictures of each picture's mean squared error."""
        return self.residual(noise_null).square().mean(dim=(1, 2, 3)).sum()


Solver = Callable[[InnerProblem, torch.Tensor, int, int], tuple[torch.Tensor, torch.Tensor, list[float]]]
"""(problem, null, step_index, N) -> (null, its noise prediction, losses)."""


def null_text_steps(
    model: DiffusionModel,
    trajectory: LatentTrajectory,
    text: Conditioning,
    null: Conditioning,
    guidance_scale: float,
    solver: Solver,
) -> Iterator[NullTextStep]:
    """Fit one null embedding per sampling step, shared by the B pictures of the trajectory.

    text  [B, L, D] the source prompts; null [1, L, D] where the first step starts from
    """
    num_inference_steps = len(trajectory.timesteps)
    latents, batch, embeds = trajectory.noise, len(trajectory.noise), null.prompt_embeds.clone()
    for index, (t, alpha_from, alpha_to) in enumerate(model.schedule.alpha_pairs(num_inference_steps)):
        pivot = trajectory.entering(index + 1)
        with torch.no_grad():
            noise_text = model.predict_noise(latents, t, text)
        slope = (1 - guidance_scale) * noise_coefficient(alpha_from, alpha_to)
        offset = ddim_step(latents, guidance_scale * noise_text, alpha_from, alpha_to) - pivot

        def noise_of(candidate: torch.Tensor, z: torch.Tensor = latents, t: int = t) -> torch.Tensor:
            return model.predict_noise(z, t, null.with_embeds(candidate).expand(batch))

        problem = InnerProblem(noise_of, offset, slope, 1e-5 + 2e-5 * index)
        with constant_latents(model.unet):
            embeds, noise_null, losses = solver(problem, embeds, index, num_inference_steps)
        noise = guide(noise_null, noise_text, guidance_scale)
        latents = ddim_step(latents, noise, alpha_from, alpha_to)
        yield NullTextStep(index, t, latents, embeds, tuple(losses))


def adam_solver(inner_steps: int = 10) -> Solver:
    """The paper's: Adam, learning rate 1e-2 (1 - i/2N), at most `inner_steps`, stop under 1e-5 + 2e-5 i."""
    return partial(_adam, inner_steps=inner_steps)


def _adam(
    problem: InnerProblem, null: torch.Tensor, step_index: int, num_inference_steps: int, *, inner_steps: int
) -> tuple[torch.Tensor, torch.Tensor, list[float]]:
    null = null.detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([null], lr=1e-2 * (1 - step_index / (2 * num_inference_steps)))
    losses: list[float] = []
    with torch.enable_grad():
        for _ in range(inner_steps):
            loss = problem.loss(problem.noise_of(null))
            arrived = _Arriving(loss)  # the copy travels while the backward pass runs
            (null.grad,) = torch.autograd.grad(loss, null)
            optimizer.step()
            losses.append(arrived.value())
            if losses[-1] < problem.threshold:
                break
    null = null.detach()
    with torch.no_grad():
        noise_null = problem.noise_of(null)
        losses.append(float(problem.loss(noise_null)))
    return null, noise_null, losses


def gauss_newton_solver(iterations: int = 2, trust_rms: float = 0.15) -> Solver:
    """Gauss-Newton by truncated conjugate gradients (CGLS): within a step the residual is almost linear in null.

    Each iteration costs one backward pass and one forward pass (J p by finite difference). The update is clipped to
    an rms of `trust_rms` per embedding entry: unclipped it diverges on hard models. An update that does not lower the
    objective is refused, so the loss never grows within a step.
    """
    return partial(_gauss_newton, iterations=iterations, trust_rms=trust_rms)


def _gauss_newton(
    problem: InnerProblem,
    null: torch.Tensor,
    step_index: int,
    num_inference_steps: int,
    *,
    iterations: int,
    trust_rms: float,
) -> tuple[torch.Tensor, torch.Tensor, list[float]]:
    start = null.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        noise_start = problem.noise_of(start)
    noise_null = noise_start.detach()
    loss_start = float(problem.loss(noise_null))
    if loss_start < problem.threshold:
        return null, noise_null, [loss_start]
    update = _cgls(problem, start, noise_start, iterations)
    rms = float(update.square().mean().sqrt())
    candidate = null + update * min(1.0, trust_rms / max(rms, 1e-12))
    with torch.no_grad():
        noise_candidate = problem.noise_of(candidate)
    loss_candidate = float(problem.loss(noise_candidate))
    if not loss_candidate < loss_start:
        return null, noise_null, [loss_start, loss_start]
    return candidate, noise_candidate, [loss_start, loss_candidate]


def _cgls(problem: InnerProblem, start: torch.Tensor, noise_start: torch.Tensor, iterations: int) -> torch.Tensor:
    """The update of the linearised problem min ||r + J u||^2 after a few conjugate gradient steps from u = 0."""
    base = noise_start.detach()
    remaining = -problem.residual(base)
    update, direction, gamma = torch.zeros_like(start), torch.zeros_like(start), 0.0
    for iteration in range(iterations):
        keep = iteration + 1 < iterations
        (pulled,) = torch.autograd.grad(noise_start, start, remaining * problem.slope, retain_graph=keep)
        gamma_new = float(pulled.square().sum())
        if gamma_new == 0.0:
            break
        direction = pulled + (gamma_new / gamma if gamma else 0.0) * direction
        gamma = gamma_new
        # a step of 1 % of the embedding: large against rounding, small against curvature
        span = 1e-2 * float(start.detach().norm()) / float(direction.norm())
        with torch.no_grad():
            pushed = (problem.noise_of(start.detach() + span * direction) - base) * (problem.slope / span)
        length = gamma / max(float(pushed.square().sum()), 1e-30)
        update = update + length * direction
        remaining = remaining - length * pushed
    return update


class _Arriving:
    """A scalar on its way from the device: reading it waits for its own copy, not for work queued later."""

    def __init__(self, value: torch.Tensor) -> None:
        self._event = None
        value = value.detach()
        if value.is_cuda:
            self._host = torch.empty((), dtype=value.dtype, pin_memory=True).copy_(value, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._host = value

    def value(self) -> float:
        if self._event is not None:
            self._event.synchronize()
        return float(self._host)
