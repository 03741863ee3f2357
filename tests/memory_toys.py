"""Bytes of tensors that are alive at once, counted as they come and go; and attention without maps of tokens by tokens
on the meta device, where networks of any size are passed through without computing anything.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """`peak` is the most that was alive at once of what came into being inside."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {_key(value) for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)}
        for value in tree_leaves(out):
            if isinstance(value, torch.Tensor) and _key(value) not in given | self._sizes.keys():
                self._came(value.untyped_storage())
        self.peak = max(self.peak, self.live)
        return out

    def _came(self, storage: torch.UntypedStorage) -> None:
        self._sizes[storage._cdata] = storage.nbytes()
        self.live += storage.nbytes()
        weakref.finalize(storage, self._went, storage._cdata)

    def _went(self, key: int) -> None:
        self.live -= self._sizes.pop(key, 0)


def _key(value: torch.Tensor) -> int:
    return int(value.untyped_storage()._cdata)


class FusedAttention(torch.autograd.Function):
    """What a fused kernel keeps: query, key, value, output, and one number a row."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        out, sums = torch.empty_like(query), query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.empty_like(given) for given in ctx.saved_tensors[:3])


def fused_on_meta(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    """Stands in for F.scaled_dot_product_attention, which on the meta device would take maps of tokens by tokens."""
    return FusedAttention.apply(query, key, value)
