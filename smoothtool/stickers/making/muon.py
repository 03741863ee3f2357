"""Muon (Jordan et al. 2024) for weight matrices, AdamW for the rest, over parameters that several processes share.

Muon's step is the momentum with its singular values set to one, `U V^T` of `M = U S V^T`, by a quintic Newton-Schulz
iteration. Its length follows Liu et al. 2025 (arXiv:2502.16982): `0.2 sqrt(max(rows, columns))`, so that both kinds of
parameter take one rate and one weight decay.
"""

from __future__ import annotations

import torch
from torch import nn

Number = float | torch.Tensor

# Amsel et al. 2025 (arXiv:2505.16932), table of the first four rounds: the best quintics one after the other
QUINTICS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
)


def orthogonalised(matrices: torch.Tensor) -> torch.Tensor:
    """[..., M, N] -> the same with singular values near one.

    Every iterate is a polynomial of `X X^T` times X, so the iteration runs on the smaller Gram matrix alone and X is
    multiplied once: a third of the arithmetic for the shapes of a UNet.
    """
    if matrices.shape[-2] > matrices.shape[-1]:
        return orthogonalised(matrices.mT).mT
    x = matrices / (1.01 * matrices.norm(dim=(-2, -1), keepdim=True) + 1e-12)
    gram, product = x @ x.mT, None
    for last, (a, b, c) in zip((False, False, False, True), QUINTICS, strict=True):
        polynomial = b * gram + c * (gram @ gram)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        product = polynomial if product is None else polynomial @ product
        if not last:
            gram = polynomial @ gram @ polynomial
    return product @ x


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Hidden weights: no biases, norms, embeddings, nor the convolutions that touch latents."""
    return parameter.ndim >= 2 and "embedding" not in name and not name.startswith(("unet.conv_in", "unet.conv_out"))


class MuonAdamW:
    """One optimizer over `parameters` (a process's own share). Moments live in tensors of their own, to be saved.

    rate: per step. betas of AdamW: (0.9, 0.99); Muon's momentum 0.95 with Nesterov's look-ahead.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], *, muon: bool = True, weight_decay: float = 1e-2) -> None:
        self.parameters, self.muon, self.weight_decay = parameters, muon, weight_decay
        self.first = {name: torch.zeros_like(p) for name, p in parameters.items()}
        self.second = {name: torch.zeros_like(p) for name, p in parameters.items() if not self._is_muon(name)}

    def _is_muon(self, name: str) -> bool:
        return self.muon and is_matrix(name, self.parameters[name])

    @torch.no_grad()
    def step(self, gradients: dict[str, torch.Tensor], names: list[str], rate: Number, step: Number) -> None:
        """Update the parameters `names`; `step` counts from 1. Both may be tensors. Equal shapes go together."""
        shapes: dict[tuple[int, ...], list[str]] = {}
        for name in names:
            if self._is_muon(name):
                shapes.setdefault(tuple(gradients[name].flatten(1).shape), []).append(name)
            else:
                self._adamw(name, gradients[name], rate, step)
        for shape, group in shapes.items():
            momenta = [self.first[name].lerp_(gradients[name], 0.05) for name in group]
            looked_ahead = [torch.lerp(gradients[name], m, 0.95) for name, m in zip(group, momenta, strict=True)]
            directions = orthogonalised(torch.stack([matrix.flatten(1) for matrix in looked_ahead]))
            for name, direction in zip(group, directions, strict=True):
                self._move(name, direction.view_as(self.parameters[name]) * (0.2 * max(shape) ** 0.5), rate)

    def _adamw(self, name: str, gradient: torch.Tensor, rate: Number, step: Number) -> None:
        first = self.first[name].lerp_(gradient, 0.1)
        second = self.second[name].mul_(0.99).addcmul_(gradient, gradient, value=0.01)
        self._move(name, (first / (1 - 0.9**step)) / ((second / (1 - 0.99**step)).sqrt() + 1e-8), rate)

    def _move(self, name: str, direction: torch.Tensor, rate: Number) -> None:
        self.parameters[name].mul_(1 - rate * self.weight_decay).sub_(direction * rate)
