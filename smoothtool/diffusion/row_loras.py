"""LoRAs on the UNet that differ from row to row of the batch: mixtures of several LoRAs of one shape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from smoothtool.diffusion.attention import require_rows
from smoothtool.diffusion.lora_keys import read_lora

LoraState = Mapping[str, torch.Tensor]
"""`PATH.lora_A.weight` [r, in] and `PATH.lora_B.weight` [out, r], as `lora_state` gives them, with a scale of 1."""
RowLoras = Mapping[str, tuple[torch.Tensor, torch.Tensor]]
"""By path of a module: the transposed A [rows, in, r] and B [rows, r, out] of every row."""


def read_state(parts: Mapping[str, nn.Module], path: Path) -> LoraState:
    """The state of a LoRA file for the UNet among a model's `lora_parts`.

    Raises: ModelError, as `read_lora` does.
    """
    state = {}
    for (_, name), change in read_lora(path, parts).items():
        state[f"{name}.lora_A.weight"] = change.down
        state[f"{name}.lora_B.weight"] = change.alpha / change.rank * change.up
    return state


def mix_loras(states: Sequence[LoraState], weights: torch.Tensor) -> RowLoras:
    """Row b gets A_b = sum_k weights[b, k] A_k and B_b = sum_k weights[b, k] B_k.

    states   of K LoRAs on the same layers with the same rank
    weights  [rows, K], on the device of the UNet
    """

    def mixed(key: str) -> torch.Tensor:
        stacked = torch.stack([state[key].to(weights) for state in states])
        return torch.einsum("bk,koi->bio", weights, stacked)

    paths = (key.removesuffix(".lora_A.weight") for key in states[0] if key.endswith(".lora_A.weight"))
    return {path: (mixed(f"{path}.lora_A.weight"), mixed(f"{path}.lora_B.weight")) for path in paths}


@contextmanager
def row_loras(unet: nn.Module, loras: RowLoras) -> Iterator[None]:
    """For a while, y_b = W x_b + B_b A_b x_b in row b of every UNet call; LoRAs that the UNet has anyway stay.

    Raises: MemoryExhaustedError when a call arrives with other rows, which means that it was split.
    """
    with ExitStack() as stack:
        for path, (down, up) in loras.items():
            stack.callback(unet.get_submodule(path).register_forward_hook(_adding(down, up)).remove)
        yield


def _adding(down: torch.Tensor, up: torch.Tensor) -> Any:
    def add(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        """inputs [rows, L, in], output [rows, L, out]."""
        require_rows(len(output), len(down))
        return output + inputs[0] @ down.to(output) @ up.to(output)

    return add
