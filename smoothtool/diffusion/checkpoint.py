"""An opened single-file checkpoint, its weights under CompVis' plain names whatever tool has wrapped them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, KeysView
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from smoothtool.diffusion.ldm_names import ldm_names
from smoothtool.diffusion.parts import COUNTED
from smoothtool.errors import ModelError
from smoothtool.readers.tensors import TensorsFile, open_tensors

UNET, TEXT = "model.diffusion_model.", "cond_stage_model.transformer."
FIRST = f"{UNET}input_blocks.0.0.weight"
EMA, EMA_CROSS = "model_ema.diffusion_model", "attn2to_kweight"
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
_BARE_TEXT = ("embeddings.", "encoder.", "final_layer_norm.")
_TRUE = ("true", "1", "yes")

UNetOf = Callable[[int], Any]
"""The width of the text that cross-attention takes -> a UNet of that family without weights, or None."""


@dataclass(frozen=True)
class Checkpoint:
    """`names` leads from the plain name of a weight to the file's own.

    predicts_velocity, zero_snr  what the file says of itself; False where it says nothing
    """

    file: TensorsFile
    names: dict[str, str]

    def keys(self) -> KeysView[str]:
        return self.names.keys()

    def shape(self, key: str) -> tuple[int, ...]:
        return self.file.header.tensors[self.names[key]].shape

    def get_tensor(self, key: str) -> torch.Tensor:
        """On the CPU; float8, which nothing can compute with, as float16.

        Raises: ModelError, for whole numbers too: those of quantised weights are nothing without their scales.
        """
        tensor = self.file.get(self.names[key])
        if not tensor.dtype.is_floating_point and not key.endswith(COUNTED):
            holds = self.file.header.tensors[self.names[key]].dtype
            what = f"{self.file.header.path}: {self.names[key]} holds {holds}, not weights"
            raise ModelError(what, "a copy that is not quantised")
        return tensor.half() if tensor.dtype in FLOAT8 else tensor

    @property
    def predicts_velocity(self) -> bool:
        """The key `v_pred`, or the metadata of its trainer."""
        said = self.file.header.metadata
        kind = said.get("modelspec.prediction_type", "").lower()
        return "v_pred" in self.names or kind.startswith("v") or _is_true(said.get("ss_v_parameterization"))

    @property
    def zero_snr(self) -> bool:
        """The key `ztsnr`, or the metadata of its trainer: the schedule ends in pure noise."""
        said = self.file.header.metadata
        return "ztsnr" in self.names or any(_is_true(said.get(key)) for key in ("ztsnr", "ss_zero_terminal_snr"))


@contextmanager
def open_checkpoint(path: Path, unet_of: UNetOf) -> Iterator[Checkpoint]:
    """Reads the header alone.

    unet_of  asked only for a file that holds its UNet as averages (EMA) alone, whose names have lost their dots
    Raises: ModelError for anything that is not a whole safetensors file; nothing in it is run.
    """
    with open_tensors(path) as file:
        keys = list(file.header.tensors)
        wrapper = next((key.removesuffix(FIRST) for key in keys if key.endswith(FIRST)), "")
        names = {_plain(key.removeprefix(wrapper)): key for key in keys}
        if not any(name.startswith(UNET) for name in names):
            names |= _averages(file, keys, unet_of)
        yield Checkpoint(file, names)


def _plain(name: str) -> str:
    """NovelAI's text encoder lacks one level of names."""
    inner = name.removeprefix(TEXT)
    return f"{TEXT}text_model.{inner}" if inner != name and inner.startswith(_BARE_TEXT) else name


def _averages(file: TensorsFile, keys: list[str], unet_of: UNetOf) -> dict[str, str]:
    """The UNet's plain names, where the file holds its averages alone."""
    cross = next((key for key in keys if key.startswith(EMA) and key.endswith(EMA_CROSS)), None)
    unet = None if cross is None else unet_of(file.header.tensors[cross].shape[-1])
    if unet is None:
        return {}
    plain = ldm_names(unet, unet.state_dict()).values()
    dotless = {EMA + name.replace(".", ""): f"{UNET}{name}" for name in plain}
    return {dotless[key]: key for key in keys if key in dotless}


def _is_true(text: str | None) -> bool:
    return (text or "").strip().lower() in _TRUE
