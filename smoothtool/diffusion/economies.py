"""Less memory for more time, with the same results to rounding: as asked, and by itself after memory has run out.

offload                 parts of the model are on the device only while they are used
vae_tiling              the VAE works strip by strip, see `strips`
gradient_checkpointing  backward passes compute the inside of the UNet's blocks again instead of keeping it
                        (Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016, arXiv:1604.06174)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from accelerate.hooks import ModelHook, add_hook_to_module
from torch import nn

from smoothtool.diffusion.strips import work_in_strips

Economy = Literal["offload", "vae_tiling", "gradient_checkpointing"]
ECONOMIES: tuple[Economy, ...] = get_args(Economy)
WITHOUT_GRADIENTS: tuple[Economy, ...] = ("offload",)
WITH_GRADIENTS: tuple[Economy, ...] = ("offload", "gradient_checkpointing")
OF_PICTURES: tuple[Economy, ...] = ("vae_tiling", "offload")
"""What helps, the quickest first, when memory runs out in passes of the UNet, and of the VAE."""
MEANING = {
    "offload": "parts of the model wait outside the device",
    "vae_tiling": "the VAE works strip by strip",
    "gradient_checkpointing": "backward passes compute again what they do not keep",
}


@dataclass
class Economies:
    """Those of one model.

    parts   everything with weights, by name; text encoders come and go together
    active  in the order in which they were turned on
    lines   lines for the user that `tell` has not taken yet
    """

    parts: Mapping[str, nn.Module]
    device: torch.device
    active: list[Economy] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    _tell: Callable[[str], None] | None = field(default=None, repr=False)

    def use(self, economy: Economy) -> None:
        """Turn it on for good, if it is not; one that can do nothing here says so."""
        if economy in self.active:
            return
        if not self._helps(economy):
            self.say("--offload has no effect on a CPU: the whole model is in its memory anyway")
            return
        self.active.append(economy)
        _TURN_ON[economy](self)

    def left(self, choices: Sequence[Economy]) -> Economy | None:
        """The first of these that is not used yet and would help."""
        return next((one for one in choices if one not in self.active and self._helps(one)), None)

    def use_next(self, choices: Sequence[Economy]) -> bool:
        """After memory has run out: use one more of these, and say so; False when none is left."""
        release(self.device)
        economy = self.left(choices)
        if economy is None:
            return False
        self.say(f"out of memory: going on with --{economy.replace('_', '-')} ({MEANING[economy]})")
        self.use(economy)
        release(self.device)
        return True

    def tell(self, tell: Callable[[str], None]) -> None:
        """From now on lines go there, and those that wait."""
        self._tell = tell
        while self.lines:
            tell(self.lines.pop(0))

    def bring(self, part: str) -> None:
        """Have a part on the device, because something else than a pass of its own is about to use its weights."""
        hook = getattr(self.parts[part], "_hf_hook", None)
        if isinstance(hook, _ArriveAlone):
            hook.pre_forward(self.parts[part])

    def _helps(self, economy: Economy) -> bool:
        return economy != "offload" or self.device.type != "cpu"

    def say(self, line: str) -> None:
        """Tell the user at once, or as soon as `tell` says how."""
        if self._tell is None:
            self.lines.append(line)
        else:
            self._tell(line)

    def _offload(self) -> None:
        unet, vae = self.parts["unet"], self.parts["vae"]
        texts = [part for name, part in self.parts.items() if name not in ("unet", "vae")]
        offload([[unet], [vae], texts], self.device)


_TURN_ON: dict[Economy, Callable[[Economies], None]] = {
    "offload": Economies._offload,
    "vae_tiling": lambda own: work_in_strips(own.parts["vae"]),
    "gradient_checkpointing": lambda own: own.parts["unet"].enable_gradient_checkpointing(),  # type: ignore[operator]
}


@dataclass
class _Present:
    """Which group is on the device."""

    group: Sequence[nn.Module] = ()


class _ArriveAlone(ModelHook):  # type: ignore[misc]
    """Before a part runs, its group comes to the device, and the group that was there leaves."""

    def __init__(self, group: Sequence[nn.Module], device: torch.device, present: _Present) -> None:
        self.group, self.device, self.present = group, device, present

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        if self.present.group is not self.group:
            for part in self.present.group:
                part.to("cpu")
            release(self.device)
            for part in self.group:
                part.to(self.device)
            self.present.group = self.group
        return args, kwargs


def offload(groups: Sequence[Sequence[nn.Module]], device: torch.device) -> None:
    """From now on a group of parts is on the device from when one of them runs until another group does; else not.

    accelerate's own chain of hooks makes one part leave before the next, in the order of a pipeline; here any
    follows any.
    """
    present = _Present()
    for group in groups:
        for part in group:
            part.to("cpu")
            add_hook_to_module(part, _ArriveAlone(group, device, present))


@contextmanager
def keeping_all(unet: nn.Module) -> Iterator[None]:
    """Without gradient checkpointing for a while: for passes under a control that is gone when they would repeat."""
    on = bool(unet.is_gradient_checkpointing)
    if on:
        unet.disable_gradient_checkpointing()  # type: ignore[operator]
    try:
        yield
    finally:
        if on:
            unet.enable_gradient_checkpointing()  # type: ignore[operator]


def release(device: torch.device) -> None:
    """Give back what the device's allocator keeps for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
