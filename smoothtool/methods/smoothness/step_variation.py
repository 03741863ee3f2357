"""Step-wise variation regularisation (Guo et al., Smooth Diffusion, CVPR 2024, arXiv:2312.04410, eqs. 9 and 10).

    g = d <x0_hat, v> / d eps,  n = ||g||,  L_reg = mean (n - a)^2,  loss = L_base + lambda L_reg

with `a` a running mean of n. The definition differentiates g, which fused attention and compilers cannot. Here
d n / d theta = d/d theta <v, J u>, with u = g / ||g|| held constant (d ||g|| = <u, dg>) and J = d x0_hat / d eps, and
the derivative of x0_hat along u is a finite difference: first-order passes only.

Every gradient is a generator of `LossTerm`s. Each term's `loss` is differentiated before the next is asked for, so
that only one graph is alive at a time; the sum of the gradients is the gradient of the loss above.

A finite difference needs a length: too long, and it meets the model's curvature (an error that grows as the square of
the length, or as the length where it is one-sided); too short, and it meets rounding. Neither shows in the loss, so
`disagreement` compares two lengths.

On purpose not as in the authors' program: a is the mean over all processes, starts at the first batch's mean unless
asked for 0, and the weights dL_reg/dn know that a depends on n (as the program's graph does).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import nn

from smoothtool.diffusion.ddim import noise_target

Gradient = Literal["central", "one-sided", "forward-variation", "double-backward"]

Predict = Callable[[torch.Tensor], torch.Tensor]
"""z_t [B, C, h, w] -> eps [B, C, h, w] in float32, at the batch's own timesteps and conditioning."""

RUNNING_MEAN_RATE = 0.01
_GRADIENT_SCALE = 1024.0  # a power of two, so exact: keeps float16 gradients of the small <x0_hat, v> above zero


@dataclass(frozen=True)
class NoisyBatch:
    """B samples on their way to noise: z_t = sqrt(abar_t) z_0 + sqrt(1 - abar_t) eps.

    latents         z_0 [B, C, h, w]
    noise           eps [B, C, h, w]
    probe           standard normal [B, C, h, w]; v = sqrt(1 - abar_t) probe / sqrt(C h w)
    alphas_cumprod  abar_t [B]
    loss_weights    [B] factors of the squared error in eps: 1, or 1 / abar_t where the model predicts v
    resolved        [B] factors of the regulariser: 1, or 0 where its difference is known to be wrong; None: all 1

    Where abar_t = 0 (zero terminal SNR) predictions are v itself, which is -x0_hat: see `diffusion.ddim`.
    """

    latents: torch.Tensor
    noise: torch.Tensor
    probe: torch.Tensor
    alphas_cumprod: torch.Tensor
    loss_weights: torch.Tensor
    resolved: torch.Tensor | None = None

    @property
    def signal(self) -> torch.Tensor:
        """sqrt(abar_t) [B, 1, 1, 1]."""
        return self.alphas_cumprod.sqrt().view(-1, 1, 1, 1)

    @property
    def sigma(self) -> torch.Tensor:
        """sqrt(1 - abar_t) [B, 1, 1, 1]."""
        return (1 - self.alphas_cumprod).sqrt().view(-1, 1, 1, 1)

    @property
    def direction(self) -> torch.Tensor:
        """v [B, C, h, w]."""
        return self.sigma * self.probe / self.probe[0].numel() ** 0.5

    @property
    def gain(self) -> torch.Tensor:
        """-d x0_hat / d prediction [B, 1, 1, 1]: sqrt(1 - abar_t) / sqrt(abar_t), 1 where the prediction is v."""
        return torch.where(self.signal == 0, 1.0, self.sigma / self.signal)

    @property
    def path(self) -> torch.Tensor:
        """How far x0_hat depends on eps through z_t itself, in units of `gain` [B, 1, 1, 1]: 1, or 0 where it is -v."""
        return (self.signal != 0).float()

    def rows(self, part: slice) -> NoisyBatch:
        """Some of the samples."""
        whole = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return NoisyBatch(**{name: value[part] for name, value in whole.items() if value is not None})

    def noisy(self, noise: torch.Tensor) -> torch.Tensor:
        """z_t under this noise."""
        return self.signal * self.latents + self.sigma * noise

    def base_loss(self, noise: torch.Tensor, noise_pred: torch.Tensor) -> torch.Tensor:
        """Mean squared error per sample [B]."""
        target = noise_target(self.latents, noise, self.alphas_cumprod.view(-1, 1, 1, 1))
        return self.loss_weights * (noise_pred - target).square().flatten(1).mean(dim=1)


@dataclass(frozen=True)
class Regularisation:
    """weight         lambda; 0 trains without the regulariser
    relative_step  length r of the finite difference, to the length of z_t: see `training.difference`
    average        a scalar's mean over all processes
    """

    gradient: Gradient = "central"
    weight: float = 1.0
    relative_step: float = 3e-3
    average: Callable[[torch.Tensor], torch.Tensor] = lambda value: value


@dataclass(frozen=True)
class Variation:
    """norms         n [B]
    running_mean  a, after this batch
    regulariser   L_reg = mean (n - a)^2
    weights       dL_reg / dn [B], with a's own dependence on n
    """

    norms: torch.Tensor
    running_mean: torch.Tensor
    regulariser: torch.Tensor
    weights: torch.Tensor


@dataclass(frozen=True)
class LossTerm:
    """One summand: `loss` to differentiate, its share of the base loss per sample [B], and the batch's variation."""

    loss: torch.Tensor
    base_loss: torch.Tensor
    variation: Variation | None


def loss_terms(
    predict: Predict,
    batch: NoisyBatch,
    running_mean: torch.Tensor | None,
    settings: Regularisation,
    parameters: Sequence[nn.Parameter] = (),
) -> Iterator[LossTerm]:
    """The summands of the loss; the caller calls `loss.backward()` on each before it goes on.

    running_mean  a before this batch; None: this batch's own mean
    parameters    what is trained: frozen for as long as only the noise is differentiated, which saves their memory
    """
    if settings.weight == 0:
        yield from _plain(predict, batch)
    elif settings.gradient == "central":
        yield from _central(predict, batch, running_mean, settings, parameters)
    elif settings.gradient == "one-sided":
        yield from _one_sided(predict, batch, running_mean, settings)
    elif settings.gradient == "forward-variation":
        yield from _forward_variation(predict, batch, running_mean, settings)
    else:
        yield from _double_backward(predict, batch, running_mean, settings)


def variation(
    norms: torch.Tensor,
    running_mean: torch.Tensor | None,
    average: Callable[[torch.Tensor], torch.Tensor] = lambda value: value,
) -> Variation:
    """a_new = a + 0.01 (mean(n) - a);  dL_reg/dn_i = (2 / B) [(n_i - a_new) - 0.01 (mean(n) - a_new)].

    norms  n [B]; everything returned is detached
    """
    norms = norms.detach()
    mean = average(norms.mean())
    before = mean if running_mean is None else running_mean
    after = before + RUNNING_MEAN_RATE * (mean - before)
    weights = 2 / len(norms) * ((norms - after) - RUNNING_MEAN_RATE * (mean - after))
    return Variation(norms, after, (norms - after).square().mean(), weights)


def variation_gradient(
    predict: Predict, batch: NoisyBatch, settings: Regularisation, parameters: Sequence[nn.Parameter]
) -> torch.Tensor:
    """d L_reg / d theta [P] with the running mean at 0, as these settings compute it; leaves no gradient anywhere."""
    alone = replace(batch, loss_weights=torch.zeros_like(batch.loss_weights))
    scaled = replace(settings, weight=_GRADIENT_SCALE, average=lambda value: value)
    total = torch.zeros((), device=batch.noise.device)
    for term in loss_terms(predict, alone, torch.zeros_like(batch.alphas_cumprod[0]), scaled, parameters):
        parts = torch.autograd.grad(term.loss, list(parameters), allow_unused=True)
        flat = [torch.zeros_like(p) if part is None else part for p, part in zip(parameters, parts, strict=True)]
        total = total.to(batch.noise) + torch.cat([part.flatten() for part in flat]) / _GRADIENT_SCALE
    return total


def disagreement(
    predict: Predict, batch: NoisyBatch, settings: Regularisation, parameters: Sequence[nn.Parameter]
) -> torch.Tensor:
    """How far the gradients at r and at 2 r are apart, relative to the one at r: a scalar.

    Where curvature rules, three times the error at r (for one-sided, once); where rounding does, about once.
    """
    near, far = (
        variation_gradient(predict, batch, replace(settings, relative_step=length), parameters)
        for length in (settings.relative_step, 2 * settings.relative_step)
    )
    return (near - far).norm() / near.norm().clamp_min(torch.finfo(near.dtype).tiny)


def noise_gradient(predict: Predict, batch: NoisyBatch, parameters: Sequence[nn.Parameter]) -> torch.Tensor:
    """g = d <x0_hat, v> / d eps [B, C, h, w], with the parameters frozen."""
    with _frozen(parameters), torch.enable_grad():
        noise = batch.noise.detach().requires_grad_(True)
        return _noise_gradient(predict(batch.noisy(noise)), noise, batch)


def _plain(predict: Predict, batch: NoisyBatch) -> Iterator[LossTerm]:
    base = batch.base_loss(batch.noise, predict(batch.noisy(batch.noise)))
    yield LossTerm(base.mean(), base.detach(), None)


def _central(
    predict: Predict,
    batch: NoisyBatch,
    running_mean: torch.Tensor | None,
    settings: Regularisation,
    parameters: Sequence[nn.Parameter],
) -> Iterator[LossTerm]:
    """n and u from one pass to the noise; then eps + delta u and eps - delta u, both valid noisy samples.

    The base loss is the mean of the pair's, and <x0_hat(+) - x0_hat(-), v> / (2 delta) splits into the two terms.
    """
    norms, unit = _length_and_unit(noise_gradient(predict, batch, parameters))
    found = variation(norms, running_mean, settings.average)
    delta = _step_length(batch, settings)
    for sign in (1.0, -1.0):
        shifted = batch.noise + sign * delta * unit
        noise_pred = predict(batch.noisy(shifted))
        base = 0.5 * batch.base_loss(shifted, noise_pred)
        along = _x0_along_direction(noise_pred, batch) * sign / (2 * delta.flatten())
        yield LossTerm(base.mean() + (_pull(found, batch, settings) * along).sum(), base.detach(), found)


def _one_sided(
    predict: Predict, batch: NoisyBatch, running_mean: torch.Tensor | None, settings: Regularisation
) -> Iterator[LossTerm]:
    """The base pass serves three times: the loss, n and u, and the near end of the finite difference."""
    noise = batch.noise.detach().requires_grad_(True)
    noise_pred = predict(batch.noisy(noise))
    gradient = _noise_gradient(noise_pred, noise, batch, retain_graph=True)
    norms, unit = _length_and_unit(gradient)
    found = variation(norms, running_mean, settings.average)
    delta = _step_length(batch, settings)
    weights = _pull(found, batch, settings) / delta.flatten()
    base = batch.base_loss(batch.noise, noise_pred)
    yield LossTerm(base.mean() - (weights * _x0_along_direction(noise_pred, batch)).sum(), base.detach(), found)
    del noise_pred  # its graph was used up by the caller's backward pass
    shifted_pred = predict(batch.noisy(batch.noise + delta * unit))
    yield LossTerm((weights * _x0_along_direction(shifted_pred, batch)).sum(), torch.zeros_like(base), found)


def _forward_variation(
    predict: Predict, batch: NoisyBatch, running_mean: torch.Tensor | None, settings: Regularisation
) -> Iterator[LossTerm]:
    """Penalise ||J v|| instead of ||J^T v||: another estimator with the same expected square, without the extra pass.

    J v = (||v|| / 2 delta) (x0_hat(eps + delta v/||v||) - x0_hat(eps - delta v/||v||)); the base loss is the pair's.
    """
    length, unit = _length_and_unit(batch.direction)
    delta = _step_length(batch, settings)
    plus, minus = batch.noise + delta * unit, batch.noise - delta * unit
    plus_pred, minus_pred = predict(batch.noisy(plus)), predict(batch.noisy(minus))
    slope = (plus_pred - minus_pred) / (2 * delta)
    x0_slope = batch.gain * (batch.path * unit - slope)
    norms = length * x0_slope.flatten(1).norm(dim=1)
    found = variation(norms, running_mean, settings.average)
    base = 0.5 * (batch.base_loss(plus, plus_pred) + batch.base_loss(minus, minus_pred))
    yield LossTerm(base.mean() + (_pull(found, batch, settings) * norms).sum(), base.detach(), found)


def _double_backward(
    predict: Predict, batch: NoisyBatch, running_mean: torch.Tensor | None, settings: Regularisation
) -> Iterator[LossTerm]:
    """The definition: n stays on the graph. Needs attention with a second derivative (the math kernel)."""
    noise = batch.noise.detach().requires_grad_(True)
    noise_pred = predict(batch.noisy(noise))
    norms = _noise_gradient(noise_pred, noise, batch, create_graph=True).flatten(1).norm(dim=1)
    found = variation(norms, running_mean, settings.average)
    base = batch.base_loss(batch.noise, noise_pred)
    yield LossTerm(base.mean() + (_pull(found, batch, settings) * norms).sum(), base.detach(), found)


def _pull(found: Variation, batch: NoisyBatch, settings: Regularisation) -> torch.Tensor:
    """lambda dL_reg / dn [B], and 0 for samples whose difference is not resolved."""
    weights = settings.weight * found.weights
    return weights if batch.resolved is None else weights * batch.resolved


def _noise_gradient(
    noise_pred: torch.Tensor,
    noise: torch.Tensor,
    batch: NoisyBatch,
    *,
    retain_graph: bool = False,
    create_graph: bool = False,
) -> torch.Tensor:
    """g = d <x0_hat, v> / d eps [B, C, h, w]; `noise_pred` was made from `noise`, whose own path is added by hand.

    x0_hat = z_0 + (sqrt(1 - abar) / sqrt(abar)) (eps - eps_pred).
    """
    inner = _GRADIENT_SCALE * (noise_pred * batch.direction).sum()
    (through,) = torch.autograd.grad(inner, noise, retain_graph=retain_graph or create_graph, create_graph=create_graph)
    return batch.gain * (batch.path * batch.direction - through / _GRADIENT_SCALE)


def _x0_along_direction(noise_pred: torch.Tensor, batch: NoisyBatch) -> torch.Tensor:
    """<x0_hat, v> per sample [B], as far as it depends on the model: -(sqrt(1 - abar) / sqrt(abar)) <eps_pred, v>."""
    return -(batch.gain * noise_pred * batch.direction).flatten(1).sum(dim=1)


def _step_length(batch: NoisyBatch, settings: Regularisation) -> torch.Tensor:
    """delta [B, 1, 1, 1] = r ||z_t|| / sqrt(1 - abar_t)."""
    length, _ = _length_and_unit(batch.noisy(batch.noise))
    return settings.relative_step * length.view(-1, 1, 1, 1) / batch.sigma


def _length_and_unit(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Per sample the Euclidean length [B] and the unit vector [B, C, h, w]; a zero stays zero."""
    values = values.detach()
    length = values.flatten(1).norm(dim=1)
    tiny = torch.finfo(values.dtype).tiny
    return length, values / length.clamp_min(tiny).view(-1, 1, 1, 1)


@contextmanager
def _frozen(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
