"""Where editing methods look into a UNet: the published places for Stable Diffusion's shapes, derived for others.

For Stable Diffusion XL no paper names layers. MasaCtrl's program begins at block 44 of its 70, which is SD's 10 of 16
in proportion; Prompt-to-Prompt's 0.4 and Plug-and-Play's layers are those of public ports. Ours: the maps of 32^2 for
the local blend, DragDiffusion's feature by its rule (the last decoder block but one), and DIFT's at a sixteenth of the
picture's side, as on SD.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from diffusers import UNet2DConditionModel

from smoothtool.diffusion.attention import AttentionLayer, attention_layers, block_like_sd

SHARED_FROM_SD_BLOCK = 10
"""Of 16: MasaCtrl lets the later blocks look through another row's keys and values."""


@dataclass(frozen=True)
class LayerChoices:
    """The layers that methods read or change, of one UNet.

    mutual_from       first transformer block of mutual self-attention (MasaCtrl)
    drag_block        decoder block whose output is the feature of motion supervision (DragDiffusion)
    match_block       decoder block whose output is the feature of correspondences (DIFT)
    blend_level       latents per token and side of the cross-attention maps of Prompt-to-Prompt's local blend
    self_share        part of the steps with the source's self-attention in Prompt-to-Prompt
    feature_resnets   residual blocks whose convolution feature Plug-and-Play injects
    query_layers      self-attention layers whose queries and keys Plug-and-Play injects
    """

    mutual_from: int
    drag_block: int
    match_block: int
    blend_level: int
    self_share: float
    feature_resnets: tuple[str, ...]
    query_layers: tuple[str, ...]


def layer_choices(unet: UNet2DConditionModel) -> LayerChoices:
    """For SDXL's shape (attention on the coarse levels alone), or for SD's and those like it."""
    layers = attention_layers(unet)
    coarsest = max(layer.downsampling for layer in layers)
    xl = _is_like_sdxl(unet)
    return LayerChoices(
        mutual_from=block_like_sd(unet, SHARED_FROM_SD_BLOCK),
        drag_block=-2,
        match_block=0 if xl else 1,
        # 16^2 maps of SD's 64^2 latents, the middle block being coarser; 32^2 of SDXL's 128^2, the middle block's own
        blend_level=coarsest if xl else max(1, coarsest // 2),
        self_share=0.4 if xl else 0.6,
        feature_resnets=_feature_resnets(unet, xl),
        query_layers=_query_layers(layers, xl),
    )


def _is_like_sdxl(unet: Any) -> bool:
    finest, coarsest = unet.up_blocks[-1], unet.up_blocks[0]
    return bool(getattr(coarsest, "attentions", None)) and not getattr(finest, "attentions", None)


def _feature_resnets(unet: Any, xl: bool) -> tuple[str, ...]:
    """Decoder layer 4 of SD (the second block's second); layers 0, 1, 4 and 5 of SDXL; fewer where there are fewer."""
    wanted = ((0, 0), (0, 1), (1, 1), (1, 2)) if xl else ((1, 1),)
    counts = [len(block.resnets) for block in unet.up_blocks]
    names = [f"up_blocks.{block}.resnets.{min(at, counts[block] - 1)}" for block, at in wanted]
    return tuple(dict.fromkeys(names))


def _query_layers(layers: list[AttentionLayer], xl: bool) -> tuple[str, ...]:
    """SD: from the second decoder block's second attention on. SDXL: three transformers of the first two blocks."""
    decoder = [layer.name for layer in layers if layer.part == "up" and not layer.is_cross]
    if xl:
        wanted = ("up_blocks.0.attentions.2.", "up_blocks.1.attentions.0.", "up_blocks.1.attentions.1.")
        return tuple(name for name in decoder if name.startswith(wanted))
    before = ("up_blocks.0.", "up_blocks.1.attentions.0.")
    return tuple(name for name in decoder if not name.startswith(before))
