"""Feed-forward layers keep less, and give the same numbers, derivatives and second derivatives."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from diffusers.models.activations import GEGLU
from memory_toys import LiveBytes
from toys import tiny_model

from smoothtool.diffusion.feed_forward import LeanGEGLU, keep_less

TOKENS, CHANNELS = 50, 16


@pytest.fixture
def layers() -> tuple[GEGLU, GEGLU]:
    torch.manual_seed(0)
    plain = GEGLU(CHANNELS, 4 * CHANNELS).requires_grad_(False)
    lean = copy.deepcopy(plain)
    keep_less(lean)
    return plain, lean


def given(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    numbers = torch.randn(1, TOKENS, CHANNELS, generator=torch.Generator().manual_seed(1))
    return (3 * numbers).to(dtype).requires_grad_(True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_result_and_gradient_are_the_same_to_the_last_bit(layers: tuple[GEGLU, GEGLU], dtype: torch.dtype) -> None:
    found = []
    for layer in layers:
        x = given(dtype)
        out = layer.to(dtype)(x)
        found.append((out, *torch.autograd.grad(out.square().sum(), x)))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    with torch.no_grad():
        assert torch.equal(layers[1](x), out)


def test_the_second_derivative_is_the_same(layers: tuple[GEGLU, GEGLU]) -> None:
    found = []
    for layer in layers:
        x = given(torch.float64)
        (first,) = torch.autograd.grad(layer.double()(x).square().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(first.square().sum(), x)[0])
    torch.testing.assert_close(*found)


def test_a_third_less_is_kept(layers: tuple[GEGLU, GEGLU]) -> None:
    kept = []
    for layer in layers:
        x = given()
        with LiveBytes() as counted:
            out = layer(x)
            kept.append(counted.live - out.untyped_storage().nbytes())
    assert kept == [4 * TOKENS * CHANNELS * 12, 4 * TOKENS * CHANNELS * 8]


def test_a_loaded_model_keeps_less_and_its_weights_keep_their_names(tmp_path: Path) -> None:
    unet = tiny_model(tmp_path).unet
    assert not [module for module in unet.modules() if type(module) is GEGLU]
    names = [name for name, module in unet.named_modules() if isinstance(module, LeanGEGLU)]
    assert names
    assert f"{names[0]}.proj.weight" in unet.state_dict()
