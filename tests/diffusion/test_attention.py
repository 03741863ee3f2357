"""Attention controls: exact when they change nothing, gone when they end."""

from __future__ import annotations

from typing import NoReturn

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig

from smoothtool.diffusion.attention import (
    AttentionLayer,
    attention_layers,
    attention_probs,
    block_like_sd,
    controlled_attention,
    fused_attention,
    mutual_self_attention,
)
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import MemoryExhaustedError


def call(model: DiffusionModel, latents: torch.Tensor) -> torch.Tensor:
    text = model.encode_prompts(["a cat", "a red dog"]).prompt_embeds[: len(latents)]
    return model.unet(latents, 301, encoder_hidden_states=text).sample


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))


def sd15_shaped() -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(
            cross_attention_dim=8, attention_head_dim=2, norm_num_groups=2, block_out_channels=(4, 8, 8, 8)
        )


def test_sd15_has_six_down_one_mid_and_nine_up_blocks_in_order() -> None:
    layers = attention_layers(sd15_shaped())
    parts = [layer.part for layer in layers if layer.is_cross]
    assert parts == ["down"] * 6 + ["mid"] + ["up"] * 9
    assert [layer.downsampling for layer in layers if layer.is_cross] == [
        1,
        1,
        2,
        2,
        4,
        4,
        8,
        4,
        4,
        4,
        2,
        2,
        2,
        1,
        1,
        1,
    ]


def test_layer_names_lead_to_their_modules(model: DiffusionModel) -> None:
    for layer in attention_layers(model.unet):
        assert model.unet.get_submodule(layer.name) is layer.module


def test_layers_are_listed_in_the_order_in_which_the_unet_runs_them(
    model: DiffusionModel, latents: torch.Tensor
) -> None:
    seen = []
    layers = attention_layers(model.unet)
    for layer in layers:
        layer.module.register_forward_hook(lambda *_, name=layer.name: seen.append(name))
    call(model, latents)
    assert seen == [layer.name for layer in layers]


def test_downsampling_is_latents_per_token(model: DiffusionModel, latents: torch.Tensor) -> None:
    def attend(layer: AttentionLayer, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        assert query.shape[2] == (16 // layer.downsampling) ** 2
        return fused_attention(query, key, value)

    with controlled_attention(attention_layers(model.unet), attend, 2):
        call(model, latents)


def test_published_layer_numbers_are_kept_for_sd15_and_scaled_for_others(model: DiffusionModel) -> None:
    assert block_like_sd(sd15_shaped(), 10) == 10
    blocks = attention_layers(model.unet)[-1].block_index + 1
    assert block_like_sd(model.unet, 10) == round(blocks * 10 / 16)


def test_our_processor_computes_what_diffusers_computes(model: DiffusionModel, latents: torch.Tensor) -> None:
    plain = call(model, latents)
    explicit = {
        True: lambda layer, q, k, v: attention_probs(q, k) @ v,
        False: lambda layer, q, k, v: fused_attention(q, k, v),
    }
    for attend in explicit.values():
        with controlled_attention(attention_layers(model.unet), attend, 2):
            torch.testing.assert_close(call(model, latents), plain, atol=1e-5, rtol=1e-5)


def test_mutual_attention_to_oneself_changes_nothing(model: DiffusionModel, latents: torch.Tensor) -> None:
    plain = call(model, latents)
    with mutual_self_attention(model.unet, [0, 1], 0):
        torch.testing.assert_close(call(model, latents), plain, atol=1e-5, rtol=1e-5)


def test_mutual_attention_leaves_the_source_row_and_changes_the_other(
    model: DiffusionModel, latents: torch.Tensor
) -> None:
    plain = call(model, latents)
    with mutual_self_attention(model.unet, [0, 0], 0):
        mutual = call(model, latents)
    torch.testing.assert_close(mutual[0], plain[0], atol=1e-5, rtol=1e-5)
    assert float((mutual[1] - plain[1]).detach().abs().max()) > 1e-3


def test_gradients_flow_through_mutual_attention(model: DiffusionModel, latents: torch.Tensor) -> None:
    latents.requires_grad_(True)
    with mutual_self_attention(model.unet, [0, 0], 0):
        (grad,) = torch.autograd.grad(call(model, latents)[1].sum(), latents)
    assert float(grad[0].abs().max()) > 0


def fail_under_a_control(model: DiffusionModel, latents: torch.Tensor) -> NoReturn:
    with mutual_self_attention(model.unet, [0, 0], 0):
        call(model, latents)
        raise ZeroDivisionError


def test_processors_are_the_same_objects_after_an_exception(model: DiffusionModel, latents: torch.Tensor) -> None:
    before = dict(model.unet.attn_processors)
    with pytest.raises(ZeroDivisionError):
        fail_under_a_control(model, latents)
    assert all(model.unet.attn_processors[name] is processor for name, processor in before.items())


def test_a_control_that_fails_midway_leaves_the_unet_as_it_was(model: DiffusionModel, latents: torch.Tensor) -> None:
    plain = call(model, latents)

    def attend(layer: AttentionLayer, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> NoReturn:
        raise ValueError("midway")

    with pytest.raises(ValueError, match="midway"), controlled_attention(attention_layers(model.unet), attend, 2):
        call(model, latents)
    assert torch.equal(call(model, latents), plain)


def test_lora_stays_active_under_a_control(model: DiffusionModel, latents: torch.Tensor) -> None:
    plain = call(model, latents)
    model.unet.add_adapter(
        LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False)
    )
    with_lora = call(model, latents)
    assert float((with_lora - plain).detach().abs().max()) > 1e-3
    with mutual_self_attention(model.unet, [0, 1], 0):
        torch.testing.assert_close(call(model, latents), with_lora, atol=1e-5, rtol=1e-5)


def test_a_batch_that_memory_would_split_is_refused_rather_than_mixed_wrongly(
    model: DiffusionModel, latents: torch.Tensor
) -> None:
    model.max_batch = 1
    with (
        mutual_self_attention(model.unet, [0, 0], 0),
        pytest.raises(MemoryExhaustedError, match="2 rows"),
        torch.no_grad(),
    ):
        model.predict_noise(latents, 301, model.encode_prompts(["a cat", "a dog"]))


def test_attention_maps_survive_products_that_float16_cannot_hold() -> None:
    query = torch.full((1, 1, 2, 64), 50.0)
    key = torch.stack([torch.full((64,), 50.0), torch.full((64,), 49.9)])[None, None]
    expected = torch.tensor(
        [[1.0, 0.0], [1.0, 0.0]]
    )  # the products are 160000 and 159680, an eighth of it after scaling
    probs = attention_probs(query.half(), key.half())
    assert torch.isfinite(probs).all()
    torch.testing.assert_close(probs[0, 0].float(), expected, rtol=0, atol=1e-3)
