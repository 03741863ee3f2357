"""CompVis' names of a UNet's layers: blocks of a side in one row, residual blocks as lists.

diffusers has `down_blocks.LEVEL.resnets.I`, CompVis `input_blocks.N.0`, where N counts blocks and downsamplers alike.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_BLOCK_PARTS = 5
"""`down_blocks.0.downsamplers.0.conv` is the longest name of a block."""


def ldm_names(unet: Any, names: Iterable[str]) -> dict[str, str]:
    """diffusers' name of a module or weight -> CompVis', for each of `names`; what has no other name keeps its own."""
    blocks = _blocks(unet)
    return {name: _renamed(name, blocks) for name in names}


def _renamed(name: str, blocks: dict[str, str]) -> str:
    parts = name.split(".")
    for length in range(min(_BLOCK_PARTS, len(parts)), 0, -1):
        block = ".".join(parts[:length])
        if block in blocks:
            inner = parts[length:]
            if "resnets" in parts[:length] and inner:
                inner[0] = _RESNET.get(inner[0], inner[0])
            return ".".join([blocks[block], *inner])
    return name


def _blocks(unet: Any) -> dict[str, str]:
    """The blocks of both sides and the middle, numbered."""
    found, number = dict(_ENDS), 0
    for level, block in enumerate(unet.down_blocks):
        for index in range(len(block.resnets)):
            number += 1
            found[f"down_blocks.{level}.resnets.{index}"] = f"input_blocks.{number}.0"
            found[f"down_blocks.{level}.attentions.{index}"] = f"input_blocks.{number}.1"
        if block.downsamplers:
            number += 1
            found[f"down_blocks.{level}.downsamplers.0"] = f"input_blocks.{number}.0"
            found[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
    found |= {
        "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.resnets.1": "middle_block.2",
    }
    number = 0
    for level, block in enumerate(unet.up_blocks):
        attends = bool(getattr(block, "attentions", None))
        for index in range(len(block.resnets)):
            found[f"up_blocks.{level}.resnets.{index}"] = f"output_blocks.{number}.0"
            found[f"up_blocks.{level}.attentions.{index}"] = f"output_blocks.{number}.1"
            number += 1
        if block.upsamplers:
            found[f"up_blocks.{level}.upsamplers.0"] = f"output_blocks.{number - 1}.{2 if attends else 1}"
    return found
