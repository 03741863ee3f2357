"""What a pass holds, told from the config alone, beside the bytes that the pass itself was counted to hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from memory_toys import LiveBytes, fused_on_meta
from toys import tiny_unet, tiny_vae, tiny_xl_unet

from smoothtool.diffusion.lora import add_trainable_lora
from smoothtool.diffusion.strips import work_in_strips
from smoothtool.weights.kinds import CONFIGS
from smoothtool.weights.passes import decoder_pass, encoder_pass, unet_pass

FACTOR = 1.15
"""Estimate and count differ by this much at most at the shapes of published models."""
CHECKPOINTED = 1.4
TINY = 2.0
"""In tiny models what does not grow with the picture counts more."""
WORDS = 77
Make = Callable[[], Any]


@pytest.fixture(autouse=True)
def _fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.functional.scaled_dot_product_attention", fused_on_meta)


def published(shape: str, part: str) -> tuple[Mapping[str, Any], Any]:
    """Config and network of a published shape, in float16 on the meta device."""
    config = json.loads((CONFIGS / shape / part / "config.json").read_text())
    kind = UNet2DConditionModel if part == "unet" else AutoencoderKL
    with torch.device("meta"):
        network = kind.from_config(config)
        for parameter in network.parameters():
            parameter.data = parameter.data.half()
    return config, network.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=[("sd1", 64), ("sdxl", 128)], ids=["sd1", "sdxl"])
def unet(request: pytest.FixtureRequest) -> tuple[Mapping[str, Any], Any, int]:
    shape, side = request.param
    return (*published(shape, "unet"), side)


def passed(network: Any, side: int, to: list[torch.Tensor] | None = None, latents_too: bool = False) -> int:
    """The bytes of a pass at latents of that side: without gradients, or with those of parameters or the latents."""
    weight = next(network.parameters())
    latents = torch.zeros(1, 4, side, side, dtype=weight.dtype, device=weight.device, requires_grad=latents_too)
    text = latents.new_zeros(1, WORDS, network.config.cross_attention_dim)
    added = None
    if network.config.addition_embed_type:
        pooled = network.config.projection_class_embeddings_input_dim - 6 * network.config.addition_time_embed_dim
        added = {"text_embeds": latents.new_zeros(1, pooled), "time_ids": latents.new_zeros(1, 6)}
    leaves = [latents] if latents_too else to
    time = torch.zeros((), dtype=torch.long, device=weight.device)
    with torch.set_grad_enabled(leaves is not None), LiveBytes() as bytes_:
        out = network(latents, time, encoder_hidden_states=text, added_cond_kwargs=added, return_dict=False)[0]
        if leaves is not None:
            torch.autograd.grad(out.sum(), leaves)
    return bytes_.peak


def agree(estimated: float, counted: float, factor: float = FACTOR) -> None:
    assert counted / factor <= estimated <= counted * factor, (estimated / 1e6, counted / 1e6)


def test_a_forward_pass_holds_what_is_estimated(unet) -> None:
    config, network, side = unet
    agree(2 * unet_pass(config, (side, side)).forward, passed(network, side))


def test_a_backward_pass_needs_what_is_estimated(unet) -> None:
    config, network, side = unet
    agree(2 * unet_pass(config, (side, side)).backward, passed(network, side, latents_too=True))


def test_gradient_checkpointing_needs_what_is_estimated(unet) -> None:
    config, network, side = unet
    network.enable_gradient_checkpointing()
    counted = passed(network, side, latents_too=True)
    network.disable_gradient_checkpointing()
    agree(2 * unet_pass(config, (side, side)).checkpointed, counted, CHECKPOINTED)


def test_a_lora_in_float32_keeps_copies_of_what_it_is_given() -> None:
    config, network = published("sd1", "unet")
    with torch.device("meta"):
        trained = add_trainable_lora(network, 16)
    held = unet_pass(config, (64, 64))
    agree(2 * held.backward + 4 * held.lora, passed(network, 64, trained))
    assert held.projected * 16 == sum(weight.numel() for weight in trained)


@pytest.mark.parametrize("shape", ["sd1", "sdxl"])
def test_the_vae_holds_what_is_estimated(shape: str) -> None:
    config, vae = published(shape, "vae")
    side = 128 if shape == "sdxl" else 64
    latents, picture = (
        torch.zeros(1, channels, size, size, dtype=torch.float16, device="meta")
        for channels, size in ((4, side), (3, 8 * side))
    )
    size_px = (8 * side, 8 * side)
    for tiled in (False, True):
        if tiled:
            work_in_strips(vae)
        for code, estimate, given in ((vae.decode, decoder_pass, latents), (vae.encode, encoder_pass, picture)):
            with torch.no_grad(), LiveBytes() as counted:
                code(given)
            agree(2 * estimate(config, size_px, tiled).forward, counted.peak)


@pytest.mark.parametrize("toy", [tiny_unet, tiny_xl_unet])
def test_tiny_models_on_a_cpu_hold_about_that(toy: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the kernels that a CPU has
    network = toy().eval().requires_grad_(False)
    held = unet_pass(network.config, (32, 32))
    agree(4 * held.forward, passed(network, 32), TINY)
    agree(4 * held.backward, passed(network, 32, latents_too=True), TINY)
    network.enable_gradient_checkpointing()
    agree(4 * held.checkpointed, passed(network, 32, latents_too=True), TINY)


def test_a_tiny_vae_on_a_cpu_holds_about_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    vae = tiny_vae().eval().requires_grad_(False)
    latents = torch.zeros(1, 4, 32, 32, requires_grad=True)
    with LiveBytes() as counted:
        torch.autograd.grad(vae.decode(latents).sample.sum(), latents)
    agree(4 * decoder_pass(vae.config, (64, 64)).backward, counted.peak, TINY)


def test_a_picture_of_twice_the_area_takes_twice_as_much() -> None:
    config = json.loads((CONFIGS / "sd1" / "unet" / "config.json").read_text())
    one, two = unet_pass(config, (64, 64)), unet_pass(config, (64, 128))
    assert two.backward == 2 * one.backward
    assert two.projected == one.projected
