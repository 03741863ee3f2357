"""Null-text inversion: tune the null embedding of every step so that guided sampling follows the DDIM pivots.

Mokady et al., Null-text Inversion, CVPR 2023 (arXiv:2211.09794), algorithm 1; shared between pictures as in
Guo et al., Smooth Diffusion, CVPR 2024 (arXiv:2312.04410), eqs. 19 and 20:

    null_i = argmin  sum_b  mean (ddim_step(zbar_b, eps_guided(zbar_b, text_b, null)) - z*_{N-i-1, b})^2

One null embedding per step, warm-started from the step before: shared by all B pictures, or one for each, G = 1 or B.
With one for each, every sum and every decision below is per picture: a picture fits as it would alone. The text
prediction does not depend on null, so it is computed once a step; pictures run as one batch; what precedes the first
cross-attention is computed once a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch

from smoothtool.diffusion.ddim import ddim_step, noise_coefficient
from smoothtool.diffusion.features import constant_latents
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import guide
from smoothtool.types import Conditioning, LatentTrajectory

TINY = 1e-30
"""Keeps a division by a length of zero finite; what it divides is zero as well."""


@dataclass(frozen=True)
class NullTextStep:
    """Sampling step `step_index` is fitted: its `null_embeds` [G, L, D], and where guided sampling now stands.

    latents      [B, C, h, w] zbar after the step
    losses       the objective, all pictures together, before each inner step, and after the last one
    last_losses  the last one apart, G numbers
    """

    step_index: int
    timestep: int
    latents: torch.Tensor
    null_embeds: torch.Tensor
    losses: tuple[float, ...]
    last_losses: tuple[float, ...]


@dataclass(frozen=True)
class InnerProblem:
    """One step's least-squares problem in the null embedding, everything else held fixed.

    `noise_of(null)` is the UNet; the residual is `offset + slope * noise_of(null)`, [B, C, h, w].
    shared  one null embedding serves all pictures; else there are as many problems as pictures
    anchor  [1 or G, L, D] the null embedding before any fit, for solvers that stay near it
    least_length  of an embedding, which finite differences are measured by: SDXL's null embedding begins at zero
    """

    noise_of: Callable[[torch.Tensor], torch.Tensor]
    offset: torch.Tensor
    slope: float
    threshold: float
    shared: bool = True
    anchor: torch.Tensor | float = 0.0
    least_length: torch.Tensor | float = 0.0

    def residual(self, noise_null: torch.Tensor) -> torch.Tensor:
        """What is left of the way to the pivots under this null prediction, both [B, C, h, w]."""
        return self.offset + self.slope * noise_null

    def loss(self, noise_null: torch.Tensor) -> torch.Tensor:
        """Per null embedding, [G]: the sum over its pictures of each picture's mean squared error."""
        return self.per_null(self.residual(noise_null).square().mean(dim=(1, 2, 3)))

    def per_null(self, per_picture: torch.Tensor) -> torch.Tensor:
        """[B] -> [G]."""
        return per_picture.sum(dim=0, keepdim=True) if self.shared else per_picture


Solver = Callable[[InnerProblem, torch.Tensor, int, int], tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]]
"""(problem, null [G, L, D], step_index, N) -> (null, its noise prediction, losses [G] on the CPU)."""


def null_text_steps(
    model: DiffusionModel,
    trajectory: LatentTrajectory,
    text: Conditioning,
    null: Conditioning,
    guidance_scale: float,
    solver: Solver,
) -> Iterator[NullTextStep]:
    """Fit null embeddings per sampling step to the B pictures of the trajectory.

    text  [B, L, D] the source prompts
    null  where the first step starts from: [1, L, D] for one that all pictures share, [B, L, D] for one each
    """
    num_inference_steps, least_length = len(trajectory.timesteps), 0.5 * _norm(text.prompt_embeds).amin()
    latents, batch, embeds = trajectory.noise, len(trajectory.noise), null.prompt_embeds.clone()
    for index, (t, alpha_from, alpha_to) in enumerate(model.schedule.alpha_pairs(num_inference_steps)):
        pivot = trajectory.entering(index + 1)
        with torch.no_grad():
            noise_text = model.predict_noise(latents, t, text)
        slope = (1 - guidance_scale) * noise_coefficient(alpha_from, alpha_to)
        offset = ddim_step(latents, guidance_scale * noise_text, alpha_from, alpha_to) - pivot

        def noise_of(candidate: torch.Tensor, z: torch.Tensor = latents, t: int = t) -> torch.Tensor:
            """eps [B, C, h, w] under null embeddings [G, L, D]."""
            return model.predict_noise(z, t, null.with_embeds(candidate).expand(batch))

        threshold = 1e-5 + 2e-5 * index
        problem = InnerProblem(noise_of, offset, slope, threshold, len(null) == 1, null.prompt_embeds, least_length)
        whole = batch <= model.max_batch  # a call that is split to fit memory brings other latents with each part
        with constant_latents(model.unet) if whole else nullcontext():
            embeds, noise_null, losses = solver(problem, embeds, index, num_inference_steps)
        noise = guide(noise_null, noise_text, guidance_scale)
        latents = ddim_step(latents, noise, alpha_from, alpha_to)
        totals = tuple(float(loss.sum()) for loss in losses)
        yield NullTextStep(index, t, latents, embeds, totals, tuple(losses[-1].tolist()))


def adam_solver(inner_steps: int = 10) -> Solver:
    """The paper's: Adam at `adam_rate`, at most `inner_steps`, stop under 1e-5 + 2e-5 i."""
    return partial(_adam, inner_steps=inner_steps)


def adam_rate(step_index: int, num_inference_steps: int) -> float:
    """Learning rate 1e-2 (1 - i/100) of sampling step i, whatever N up to 50; 1e-2 (1 - i/2N) for more steps.

    The programs that made the published figures divide by 100 at every N. That reaches zero at i = 100 and turns
    negative beyond, so longer schedules fall to half of the first rate, as N = 50 does.
    """
    return 1e-2 * (1 - step_index / max(100, 2 * num_inference_steps))


def _adam(
    problem: InnerProblem, null: torch.Tensor, step_index: int, num_inference_steps: int, *, inner_steps: int
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    null = null.detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([null], lr=adam_rate(step_index, num_inference_steps))
    losses: list[torch.Tensor] = []
    per_picture = problem.offset[0].numel()  # the gradient of a mean over so many is lost in float16
    done = torch.zeros(len(null), dtype=torch.bool, device="cpu")
    with torch.enable_grad():
        for _ in range(inner_steps):
            loss = problem.loss(problem.noise_of(null))
            arrived = _Arriving(loss)  # the copy travels while the backward pass runs
            (scaled,) = torch.autograd.grad(per_picture * loss.sum(), null)
            null.grad = scaled / per_picture
            before = null.detach().clone()
            optimizer.step()
            if done.any():
                null.detach()[done] = before[done]
            losses.append(arrived.values())
            done |= losses[-1] < problem.threshold
            if done.all():
                break
    null = null.detach()
    with torch.no_grad():
        noise_null = problem.noise_of(null)
        losses.append(problem.loss(noise_null).cpu())
    return null, noise_null, losses


ITERATIONS, TRUST_RMS, HALVINGS = 6, 0.15, 3


def gauss_newton_solver(
    iterations: int = ITERATIONS, trust_rms: float = TRUST_RMS, anchor_weight: float = 0.0
) -> Solver:
    """Gauss-Newton by truncated conjugate gradients (CGLS): within a step the residual is almost linear in null.

    Each iteration costs one backward pass and one forward pass (J p by finite difference). The update is clipped to
    an rms of `trust_rms` per embedding entry: unclipped it diverges on hard models. An update that does not lower the
    objective is halved, up to `HALVINGS` times, and then refused: the objective never grows within a step.

    anchor_weight  mu >= 0 of Tikhonov's term, which keeps the embedding near that of the empty prompt, where guidance
                   means what the model learned:  objective = loss + mu mean (null - anchor)^2
    """
    return partial(_gauss_newton, iterations=iterations, trust_rms=trust_rms, anchor_weight=anchor_weight)


def _gauss_newton(
    problem: InnerProblem,
    null: torch.Tensor,
    step_index: int,
    num_inference_steps: int,
    *,
    iterations: int,
    trust_rms: float,
    anchor_weight: float,
) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    start = null.detach().clone().requires_grad_(True)
    with torch.enable_grad():
        noise_start = problem.noise_of(start)
    noise_null = noise_start.detach()
    loss_start = problem.loss(noise_null)
    far = ~(loss_start < problem.threshold)
    if not far.any():
        return null, noise_null, [loss_start.cpu()]
    update = _cgls(problem, start, noise_start, iterations, anchor_weight)
    rms = update.square().mean(dim=(1, 2), keepdim=True).sqrt()
    update = update * (trust_rms / rms.clamp_min(1e-12)).clamp_max(1.0)

    def drift(embeds: torch.Tensor) -> torch.Tensor:
        """Tikhonov's term of the objective, [G]."""
        return anchor_weight * (embeds - problem.anchor).square().mean(dim=(1, 2))

    start_embeds, loss, waiting = null, loss_start, far
    objective = loss_start + drift(null)
    for halvings in range(HALVINGS + 1):
        candidate = start_embeds + 0.5**halvings * update
        with torch.no_grad():
            noise_candidate = problem.noise_of(candidate)
        loss_candidate = problem.loss(noise_candidate)
        better = waiting & (loss_candidate + drift(candidate) < objective)
        null = torch.where(better.view(-1, 1, 1), candidate, null)
        noise_null = torch.where(better.view(-1, 1, 1, 1), noise_candidate, noise_null)
        loss, waiting = torch.where(better, loss_candidate, loss), waiting & ~better
        if not waiting.any():
            break
    return null, noise_null, [loss_start.cpu(), loss.cpu()]


def _cgls(
    problem: InnerProblem, start: torch.Tensor, noise_start: torch.Tensor, iterations: int, anchor_weight: float
) -> torch.Tensor:
    """The update of the linearised problem min ||r + J u||^2 + nu ||null + u - anchor||^2 from u = 0, in few steps.

    Conjugate gradients on both squares as one; nu is mu with the means of the objective written as sums. Lengths and
    norms are per null embedding, [G, 1, 1]; one whose gradient is zero stays where it is.
    """
    base = noise_start.detach()
    nu = anchor_weight * base[0].numel() / start[0].numel()
    remaining, back = -problem.residual(base), nu * (problem.anchor - start.detach())
    update, direction = torch.zeros_like(start), torch.zeros_like(start)
    gamma = torch.ones_like(start[:, :1, :1])
    for iteration in range(iterations):
        keep = iteration + 1 < iterations
        (pulled,) = torch.autograd.grad(noise_start, start, remaining * problem.slope, retain_graph=keep)
        pulled = pulled + back - nu * update
        gamma_new = pulled.square().sum(dim=(1, 2), keepdim=True)
        if not gamma_new.any():
            break
        direction = pulled + gamma_new / gamma.clamp_min(TINY) * direction
        gamma = gamma_new
        # a step of 1 % of the embedding: large against rounding, small against curvature
        span = 1e-2 * _norm(start.detach()).clamp(min=problem.least_length) / _norm(direction).clamp_min(TINY)
        with torch.no_grad():
            pushed = (problem.noise_of(start.detach() + span * direction) - base) * (problem.slope / span)[..., None]
        curvature = problem.per_null(pushed.square().sum(dim=(1, 2, 3))).view(-1, 1, 1)
        length = gamma / (curvature + nu * _norm(direction).square()).clamp_min(TINY)
        update = update + length * direction
        remaining = remaining - length[..., None] * pushed
    return update


def _norm(embeds: torch.Tensor) -> torch.Tensor:
    """[G, L, D] -> [G, 1, 1]."""
    return embeds.square().sum(dim=(1, 2), keepdim=True).sqrt()


class _Arriving:
    """Numbers on their way from the device: reading them waits for their own copy, not for work queued later."""

    def __init__(self, value: torch.Tensor) -> None:
        self._event = None
        value = value.detach()
        if value.is_cuda:
            self._host = torch.empty(value.shape, dtype=value.dtype, device="cpu", pin_memory=True)
            self._host.copy_(value, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()
        else:
            self._host = value.cpu()

    def values(self) -> torch.Tensor:
        """The numbers, on the CPU."""
        if self._event is not None:
            self._event.synchronize()
        return self._host
