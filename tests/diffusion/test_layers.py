"""Which layers methods look into: the published ones at SD 1.5's and SDXL's shapes, some layer at any other."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from toys import tiny_unet, tiny_xl_unet

from smoothtool.diffusion.attention import attention_layers
from smoothtool.diffusion.layers import layer_choices


def sd15_shaped() -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(
            cross_attention_dim=8, attention_head_dim=2, norm_num_groups=2, block_out_channels=(4, 8, 8, 8)
        )


def sdxl_shaped() -> UNet2DConditionModel:
    with torch.device("meta"):
        return UNet2DConditionModel(
            block_out_channels=(4, 8, 16),
            cross_attention_dim=8,
            attention_head_dim=2,
            norm_num_groups=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            use_linear_projection=True,
        )


def test_sd15_has_the_published_layers() -> None:
    choices = layer_choices(sd15_shaped())
    assert choices.mutual_from == 10
    assert (choices.drag_block, choices.match_block, choices.blend_level, choices.self_share) == (-2, 1, 4, 0.6)
    assert choices.feature_resnets == ("up_blocks.1.resnets.1",)
    assert choices.query_layers[0] == "up_blocks.1.attentions.1.transformer_blocks.0.attn1"
    assert len(choices.query_layers) == 8


def test_sdxl_has_seventy_blocks_in_the_order_of_execution() -> None:
    blocks = [
        (layer.name.split(".attentions")[0], layer.downsampling)
        for layer in attention_layers(sdxl_shaped())
        if layer.is_cross
    ]
    assert (
        blocks
        == [("down_blocks.1", 2)] * 4
        + [("down_blocks.2", 4)] * 20
        + [("mid_block", 4)] * 10
        + [("up_blocks.0", 4)] * 30
        + [("up_blocks.1", 2)] * 6
    )


def test_sdxl_has_the_layers_of_its_ports() -> None:
    choices = layer_choices(sdxl_shaped())
    assert choices.mutual_from == 44
    assert (choices.drag_block, choices.match_block, choices.blend_level, choices.self_share) == (-2, 0, 4, 0.4)
    assert choices.feature_resnets == (
        "up_blocks.0.resnets.0",
        "up_blocks.0.resnets.1",
        "up_blocks.1.resnets.1",
        "up_blocks.1.resnets.2",
    )
    injected = [name.split(".transformer_blocks")[0] for name in choices.query_layers]
    assert (
        injected
        == ["up_blocks.0.attentions.2"] * 10 + ["up_blocks.1.attentions.0"] * 2 + ["up_blocks.1.attentions.1"] * 2
    )


@pytest.mark.parametrize("unet", [tiny_unet(), tiny_xl_unet()])
def test_other_shapes_have_every_layer_that_is_chosen(unet: UNet2DConditionModel) -> None:
    choices = layer_choices(unet)
    assert all(unet.get_submodule(f"{name}.conv2") for name in choices.feature_resnets)
    assert choices.query_layers
    assert any(layer.downsampling == choices.blend_level for layer in attention_layers(unet))
