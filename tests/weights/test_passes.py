"""What a pass holds, told from the config alone, beside the bytes that the pass itself was counted to hold."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from memory_toys import LiveBytes, fused_on_meta
from toys import tiny_unet, tiny_vae, tiny_xl_unet

from smoothtool.diffusion.features import constant_latents
from smoothtool.diffusion.feed_forward import keep_less
from smoothtool.diffusion.lora import add_trainable_lora
from smoothtool.diffusion.strips import work_in_strips
from smoothtool.weights.facts import model_shape
from smoothtool.weights.kinds import CONFIGS
from smoothtool.weights.passes import LEARNED_AT_ONCE, decoder_pass, encoder_pass, rows_at_once, unet_pass

FACTOR = 1.15
"""Estimate and count differ by this much at most at the shapes of published models."""
CHECKPOINTED = 1.4
TINY = 2.0
"""In tiny models what does not grow with the picture counts more."""
WORDS = 77
Make = Callable[[], UNet2DConditionModel]
Published = tuple[Mapping[str, Any], UNet2DConditionModel, int]
"""Config and network of a published UNet, and the side of the latents that it is meant for."""


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
    keep_less(network)  # as in every model that is loaded
    return config, network.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=[("sd1", 64), ("sdxl", 128)], ids=["sd1", "sdxl"])
def unet(request: pytest.FixtureRequest) -> Published:
    shape, side = request.param
    return (*published(shape, "unet"), side)


def given(network: UNet2DConditionModel, side: int, rows: int = 1, latents_too: bool = False) -> dict[str, Any]:
    """What the network takes at latents of that side."""
    weight = next(network.parameters())
    latents = torch.zeros(rows, 4, side, side, dtype=weight.dtype, device=weight.device, requires_grad=latents_too)
    added = None
    if network.config.addition_embed_type:
        pooled = network.config.projection_class_embeddings_input_dim - 6 * network.config.addition_time_embed_dim
        added = {"text_embeds": latents.new_zeros(rows, pooled), "time_ids": latents.new_zeros(rows, 6)}
    return {
        "sample": latents,
        "timestep": torch.zeros((), dtype=torch.long, device=weight.device),
        "encoder_hidden_states": latents.new_zeros(rows, WORDS, network.config.cross_attention_dim),
        "added_cond_kwargs": added,
        "return_dict": False,
    }


def passed(
    network: UNet2DConditionModel,
    side: int,
    to: Sequence[torch.Tensor] | None = None,
    latents_too: bool = False,
    rows: int = 1,
) -> int:
    """The bytes of a pass at latents of that side: without gradients, or with those of parameters or the latents."""
    inputs = given(network, side, rows, latents_too)
    leaves = [inputs["sample"]] if latents_too else to
    with torch.set_grad_enabled(leaves is not None), LiveBytes() as bytes_:
        out = network(**inputs)[0]
        if leaves is not None:
            torch.autograd.grad(out.sum(), leaves)
    return bytes_.peak


def weights(model: str) -> float:
    """The bytes of a published model's weights in float16, and of a VAE that works in float32 alone."""
    shape = model_shape(model)
    assert shape is not None
    vae = 4 if shape.vae.get("force_upcast") else 2
    return sum(count * (vae if part == "VAE" else 2) for part, count in shape.parameters.items())


def agree(estimated: float, counted: float, factor: float = FACTOR) -> None:
    assert counted / factor <= estimated <= counted * factor, (estimated / 1e6, counted / 1e6)


def test_a_forward_pass_holds_what_is_estimated(unet: Published) -> None:
    config, network, side = unet
    agree(2 * unet_pass(config, (side, side)).forward, passed(network, side))


def test_a_backward_pass_needs_what_is_estimated(unet: Published) -> None:
    config, network, side = unet
    agree(2 * unet_pass(config, (side, side)).backward, passed(network, side, latents_too=True))


def test_gradient_checkpointing_needs_what_is_estimated(unet: Published) -> None:
    config, network, side = unet
    network.enable_gradient_checkpointing()
    counted = passed(network, side, latents_too=True)
    network.disable_gradient_checkpointing()
    agree(2 * unet_pass(config, (side, side)).checkpointed, counted, CHECKPOINTED)


def test_a_drag_without_a_mask_needs_what_is_estimated(unet: Published) -> None:
    config, network, side = unet
    inputs, features = given(network, side, latents_too=True), []

    def keep(module: torch.nn.Module, taken: tuple[torch.Tensor, ...], feature: torch.Tensor) -> None:
        features.append(feature)
        raise StopIteration

    hook = network.up_blocks[-2].register_forward_hook(keep)
    with LiveBytes() as counted:
        with pytest.raises(StopIteration):
            network(**inputs)
        torch.autograd.grad(features[0].sum(), inputs["sample"])
    hook.remove()
    agree(2 * unet_pass(config, (side, side), left_out=1).backward, counted.peak)


def test_null_text_inversion_fits_into_the_memory_that_it_is_meant_for(
    unet: Published,
) -> None:
    """SD 1.5 at 512 px with two pictures into 6 GB, SDXL at 1024 px with one into 12 GB: Gauss-Newton keeps the graph
    of one pass, and goes forward and backward beside it.
    """
    _, network, side = unet
    xl = side == 128
    inputs = given(network, side, rows=1 if xl else 2)
    null = torch.zeros(1, WORDS, network.config.cross_attention_dim, device="meta", requires_grad=True)

    def predict(embeds: torch.Tensor) -> torch.Tensor:
        return network(**inputs | {"encoder_hidden_states": embeds.half().expand(len(inputs["sample"]), -1, -1)})[0]

    with LiveBytes() as counted, constant_latents(network):
        noise = predict(null)
        torch.autograd.grad(noise.sum(), null, retain_graph=True)
        with torch.no_grad():
            predict(null.detach())
    assert weights("sdxl" if xl else "sd15") + counted.peak < (12e9 if xl else 6e9)


def test_a_drag_with_sd15_learns_and_moves_its_picture_in_6_gb() -> None:
    _, network = published("sd1", "unet")
    moved = passed(network, 64, latents_too=True)  # with a mask: through the whole UNet
    with torch.device("meta"):
        trained = add_trainable_lora(network, 16)
    learned = passed(network, 64, trained, rows=rows_at_once((64, 64), LEARNED_AT_ONCE))
    moments = 16 * sum(weight.numel() for weight in trained)
    assert weights("sd15") + max(moved, learned + moments) < 6e9


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
