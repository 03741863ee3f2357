"""Solvers of z = f(z): what implicit inversions solve at every step, picture by picture.

    plain      z <- f(z)
    Anderson   z <- f(z_k) - sum_j gamma_j (f(z_{j+1}) - f(z_j))
               gamma = argmin ||r_k - sum_j gamma_j (r_{j+1} - r_j)||,  r_j = f(z_j) - z_j, over the last iterates
               (Anderson, J. ACM 12, 1965; in this form Walker & Ni, SIAM J. Numer. Anal. 49, 2011)
    AdamW      gradient steps on mean (z - f(z))^2 (Li et al., SPDInv, ECCV 2024, arXiv:2403.11105)

A round is one evaluation of f, which is one UNet call; AdamW's rounds also go backward through it. Every decision is
made per picture: one that has arrived stays where it is while others go on. Plain iteration and Anderson keep the best
of their iterates, so that where f does not contract they end no further away than they began.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch

ROUNDS, THRESHOLD, LEARNING_RATE = 25, 5e-6, 1e-3
"""SPDInv's program: most rounds a step, the mean squared residual that is small enough, AdamW's rate."""
WINDOW = 5
"""Differences that Anderson acceleration looks back on."""

Map = Callable[[torch.Tensor], torch.Tensor]
"""f, from [B, C, h, w] to the same, each picture for itself."""
FixedPointSolver = Callable[[Map, torch.Tensor, tuple[torch.Tensor, torch.Tensor]], tuple[torch.Tensor, torch.Tensor]]
"""(f, start [B, C, h, w], a pair (z, f(z)) that is known already) -> (the fixed point, residuals [1 + rounds, B]).

Residuals are root mean squares of f(z) - z, on the CPU: of the known pair, then of the iterate that each round began
with.
"""


def plain_solver(rounds: int = ROUNDS, threshold: float = THRESHOLD) -> FixedPointSolver:
    """At most `rounds` evaluations of f; a picture stops once its mean squared residual is under `threshold`."""
    return partial(_iterate, rounds=rounds, threshold=threshold, window=0)


def anderson_solver(rounds: int = ROUNDS, threshold: float = THRESHOLD, window: int = WINDOW) -> FixedPointSolver:
    """The same, each next iterate extrapolated from the last `window` differences; the known pair is the first."""
    return partial(_iterate, rounds=rounds, threshold=threshold, window=window)


def adamw_solver(
    rounds: int = ROUNDS, threshold: float = THRESHOLD, learning_rate: float = LEARNING_RATE
) -> FixedPointSolver:
    """The papers' own. A picture under `threshold` takes the step of that round and stops, as in their program."""
    return partial(_adamw, rounds=rounds, threshold=threshold, learning_rate=learning_rate)


@torch.no_grad()
def _iterate(
    image_of: Map,
    start: torch.Tensor,
    known: tuple[torch.Tensor, torch.Tensor],
    *,
    rounds: int,
    threshold: float,
    window: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    points, images, residuals = [known[0]], [known[1]], [_rms(known[1] - known[0])]
    point, best, least = start, start, torch.full_like(residuals[0], torch.inf)
    done = torch.zeros_like(least, dtype=torch.bool)
    for _ in range(rounds):
        image = image_of(point)
        residual = _rms(image - point)
        better = ~done & (residual < least)
        best, least = torch.where(_wide(better), image, best), torch.where(better, residual, least)
        residuals.append(torch.where(done, least, residual))
        done |= residual.square() < threshold
        if done.all():
            break
        points, images = [*points[-window:], point], [*images[-window:], image]
        point = extrapolated(points, images) if window else image
    return best, torch.stack(residuals).cpu()


def extrapolated(points: Sequence[torch.Tensor], images: Sequence[torch.Tensor]) -> torch.Tensor:
    """Anderson's next iterate [B, C, h, w] from m + 1 iterates and their images, the newest last.

    The least squares are solved by normal equations of columns of length 1: the differences of a converging sequence
    shrink by orders of magnitude, and their directions grow alike, which a ridge of 1e-6 bears.
    """
    rows = torch.stack([image - point for point, image in zip(points, images, strict=True)], dim=1).flatten(2)
    towards = torch.stack(list(images), dim=1).flatten(2)
    change, moved = rows[:, 1:] - rows[:, :-1], towards[:, 1:] - towards[:, :-1]  # [B, m, C h w]
    length = change.norm(dim=2, keepdim=True).clamp_min(torch.finfo(change.dtype).tiny)
    change, moved = change / length, moved / length
    equations = torch.cat([change @ change.mT, change @ rows[:, -1:].mT], dim=-1)  # one copy for both
    gram, wanted = equations.cpu().double().split([change.shape[1], 1], dim=-1)  # MPS has no float64
    ridge = 1e-6 * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
    gamma = torch.linalg.solve(gram + ridge, wanted).to(change)
    return images[-1] - (moved * gamma).sum(dim=1).view_as(images[-1])


def _adamw(
    image_of: Map,
    start: torch.Tensor,
    known: tuple[torch.Tensor, torch.Tensor],
    *,
    rounds: int,
    threshold: float,
    learning_rate: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    point = start.detach().clone().requires_grad_(True)
    optimizer = torch.optim.AdamW([point], lr=learning_rate)
    residuals, size = [_rms(known[1] - known[0])], point[0].numel()
    done = torch.zeros_like(residuals[0], dtype=torch.bool)
    for _ in range(rounds):
        with torch.enable_grad():
            loss = (point - image_of(point)).square().mean(dim=(1, 2, 3))
            (scaled,) = torch.autograd.grad(size * loss.sum(), point)  # of a mean, float16 would keep nothing
        point.grad, before = scaled / size, point.detach().clone()
        optimizer.step()
        point.detach().copy_(torch.where(_wide(done), before, point.detach()))
        residuals.append(torch.where(done, residuals[-1], loss.detach().sqrt()))
        done |= loss.detach() < threshold
        if done.all():
            break
    return point.detach(), torch.stack(residuals).cpu()


def _rms(latents: torch.Tensor) -> torch.Tensor:
    """[B, C, h, w] -> [B]."""
    return latents.square().mean(dim=(1, 2, 3)).sqrt()


def _wide(per_picture: torch.Tensor) -> torch.Tensor:
    """[B] -> [B, 1, 1, 1]."""
    return per_picture.view(-1, 1, 1, 1)
