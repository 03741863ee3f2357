"""Parts of a single-file checkpoint as diffusers and transformers models; every weight is accounted for by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, ModelMixin, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)

from smoothtool.diffusion.parts import check_missing
from smoothtool.errors import ModelError

Tensors = dict[str, torch.Tensor]
_TOKENS = "token_embedding.weight"
_TRANSFORMERS_TOKENS = f"embeddings.{_TOKENS}"


def convert_part(kind: Any, tensors: Tensors, configs: Path, subfolder: str, dtype: torch.dtype, place: str) -> Any:
    """A part from weights under CompVis' or OpenCLIP's names, on the CPU in `dtype`.

    kind     UNet2DConditionModel, AutoencoderKL or a CLIP text model of transformers
    tensors  the part's weights under their full names
    configs  folder of a diffusers model whose `subfolder` describes the part
    place    the file, which errors name
    Raises: ModelError when a weight is missing or of another shape.
    """
    with init_empty_weights():
        model = _empty(kind, configs, subfolder)
    found = _renamed(model, tensors)
    wanted = model.state_dict()
    check_missing(f"{place}: {subfolder}", wanted.keys() - found.keys())
    for key, value in wanted.items():
        if found[key].shape != value.shape:
            what = f"{key} has the shape {list(found[key].shape)}, not {list(value.shape)}"
            raise ModelError(f"{place}: {subfolder}: {what}", "another copy of it")
    model.load_state_dict({key: found[key].to(dtype).contiguous() for key in wanted}, assign=True)
    return model.eval()


def _empty(kind: Any, configs: Path, subfolder: str) -> Any:
    if issubclass(kind, ModelMixin):
        return kind.from_config(kind.load_config(configs, subfolder=subfolder, local_files_only=True))
    return kind(kind.config_class.from_pretrained(configs, subfolder=subfolder, local_files_only=True))


def _renamed(model: Any, tensors: Tensors) -> Tensors:
    """The weights under the model's own names; what it does not know is left out."""
    if isinstance(model, UNet2DConditionModel):
        return dict(convert_ldm_unet_checkpoint(tensors, model.config))
    if isinstance(model, AutoencoderKL):
        return dict(convert_ldm_vae_checkpoint(tensors, model.config))
    tokens = next((key for key in tensors if key.endswith(_TOKENS)), _TOKENS)
    if tokens.endswith(_TRANSFORMERS_TOKENS):
        stem = tokens.removesuffix(_TRANSFORMERS_TOKENS).removesuffix("text_model.")
        named = {key.removeprefix(stem): value for key, value in tensors.items()}
    else:
        named = dict(convert_open_clip_checkpoint(model, tensors, prefix=tokens.removesuffix(_TOKENS)))
    if hasattr(model, "text_model"):
        return named
    return {key.removeprefix("text_model."): value for key, value in named.items()}
