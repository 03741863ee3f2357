from __future__ import annotations

import pytest
import torch
from torch import nn

from smoothtool.stickers.making.muon import MuonAdamW, is_matrix, orthogonalised


@pytest.mark.parametrize("shape", [(24, 96), (96, 24), (3, 32, 32)])
def test_singular_values_of_an_orthogonalised_matrix_are_near_one(shape: tuple[int, ...]) -> None:
    values = torch.linalg.svdvals(orthogonalised(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
    assert values.max() < 1.6
    assert values.median() > 0.7


def test_orthogonalising_keeps_the_singular_vectors() -> None:
    left, _, right = torch.linalg.svd(torch.randn(16, 40, generator=torch.Generator().manual_seed(1)), False)
    product = left.T @ orthogonalised((left * torch.linspace(1, 2, 16)) @ right) @ right.T
    assert (product - product.diagonal().diag()).abs().max() < 1e-4


def test_matrices_step_by_muon_and_the_rest_by_adamw() -> None:
    layers = nn.ModuleDict({"hidden": nn.Linear(8, 12)})
    parameters = dict(layers.named_parameters())
    before = {name: p.detach().clone() for name, p in parameters.items()}
    optimizer = MuonAdamW(parameters, weight_decay=0.0)
    gradients = {name: torch.randn(p.shape) for name, p in parameters.items()}
    optimizer.step(gradients, list(parameters), rate=0.01, step=1)
    weight = (before["hidden.weight"] - parameters["hidden.weight"]) / (0.01 * 0.2 * 12**0.5)
    torch.testing.assert_close(weight, orthogonalised(gradients["hidden.weight"]), atol=1e-4, rtol=1e-3)
    bias = (before["hidden.bias"] - parameters["hidden.bias"]) / 0.01
    torch.testing.assert_close(bias, gradients["hidden.bias"].sign(), atol=1e-4, rtol=1e-3)


def test_ends_and_embeddings_are_no_matrices() -> None:
    weight = nn.Parameter(torch.zeros(4, 4))
    assert is_matrix("unet.mid_block.attentions.0.proj_in.weight", weight)
    assert not is_matrix("unet.conv_in.weight", weight)
    assert not is_matrix("text_encoder.embeddings.token_embedding.weight", weight)
    assert not is_matrix("unet.mid_block.norm.bias", nn.Parameter(torch.zeros(4)))
