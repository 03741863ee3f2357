"""LoRAs on a loaded model: load, scale, stack, switch off, train, remove, save (Hu et al. 2021, arXiv:2106.09685)."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn

from smoothtool.diffusion.lora_keys import METADATA_KEY, LayerName, LowRankChange, kohya_unet_names, read_lora
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import ModelError
from smoothtool.types import LoraInit

Contents = tuple[dict[str, torch.Tensor], dict[str, str]]
"""Tensors and metadata of a safetensors file."""
ATTENTION_TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


def load_lora(model: DiffusionModel, path: Path, scale: float = 1.0) -> dict[str, Any]:
    """Put a LoRA file on the model, on top of those it carries; its weights are frozen.

    Returns what is known of it (path, adapter, scale, rank, fingerprint, layers), also appended to `model.loras`.
    Raises: ModelError, with the model as before, for whatever `read_lora` refuses.
    """
    _check_scale(path.name, scale)
    changes = read_lora(path, model.lora_parts)
    adapter = _free_name(model)
    for part, module in model.lora_parts.items():
        layers = {name: change for (owner, name), change in changes.items() if owner == part}
        if layers:
            _inject_change(module, adapter, layers)
    info = {
        "path": path.name,
        "adapter": adapter,
        "scale": scale,
        "rank": max(change.rank for change in changes.values()),
        "fingerprint": _fingerprint(changes),
        "layers": len(changes),
    }
    model.loras.append(info)
    set_lora_scales(model, [lora["scale"] for lora in model.loras])
    return info


def check_lora(model: DiffusionModel, path: Path) -> None:
    """Raises: ModelError, as `load_lora` would, without putting anything on the model."""
    read_lora(path, model.lora_parts)


def set_lora_scales(model: DiffusionModel, scales: Sequence[float]) -> None:
    """One factor per loaded LoRA, in the order of `model.loras`; 0 silences it, 1 is as trained."""
    if len(scales) != len(model.loras):
        raise ModelError(f"{len(scales)} LoRA scales for {len(model.loras)} LoRAs", "one scale for each LoRA")
    for info, scale in zip(model.loras, scales, strict=True):
        _check_scale(info["path"], scale)
        info["scale"] = scale
        for part in model.lora_parts.values():
            for layer in lora_layers(part, info["adapter"]).values():
                layer.set_scale(info["adapter"], scale)
    model.forget_prompts()


@contextmanager
def lora_disabled(model: DiffusionModel) -> Iterator[None]:
    """The base model, without any LoRA, for as long as the block lasts."""
    _enable_adapters(model, False)
    try:
        yield
    finally:
        _enable_adapters(model, True)


def add_trainable_lora(
    unet: nn.Module,
    rank: int,
    alpha: float | None = None,
    targets: Sequence[str] = ATTENTION_TARGETS,
    dtype: torch.dtype = torch.float32,
    adapter: str = "trained",
    generator: torch.Generator | None = None,
    init: LoraInit = "gaussian",
) -> list[nn.Parameter]:
    """A fresh LoRA on every module whose path ends in one of `targets`; it changes nothing until it is trained.

    alpha      `rank` when left out, so that readers without alpha agree
    generator  makes the start reproducible
    init       gaussian as diffusers' LoRA layers and the papers' programs, uniform as peft
    Returns the new parameters, the only ones of the UNet made to require a gradient here.
    """
    config = LoraConfig(r=rank, lora_alpha=rank if alpha is None else alpha, target_modules=list(targets))  # type: ignore[arg-type]
    layers = _inject(unet, adapter, config)
    parameters = []
    for layer in layers.values():
        for weight in _pair(layer, adapter):
            weight.data = weight.data.to(dtype)
            weight.requires_grad_(True)
            parameters.append(weight)
        values = torch.empty(parameters[-2].shape, device="cpu")
        if init == "gaussian":
            nn.init.normal_(values, std=1 / rank, generator=generator)
        else:
            nn.init.kaiming_uniform_(values, a=math.sqrt(5), generator=generator)
        parameters[-2].data.copy_(values)
    return parameters


def remove_lora(model: DiffusionModel, adapter: str) -> None:
    """Take a LoRA off; where none is left, the original modules stand again."""
    for part in model.lora_parts.values():
        _eject(part, adapter)
    model.loras = [info for info in model.loras if info["adapter"] != adapter]
    model.forget_prompts()


def lora_layers(part: nn.Module, adapter: str) -> dict[str, LoraLayer]:
    """The modules that carry this LoRA, by path."""
    return {
        name: module
        for name, module in part.named_modules()
        if isinstance(module, LoraLayer) and adapter in module.lora_A
    }


def lora_state(unet: nn.Module, adapter: str = "trained") -> dict[str, torch.Tensor]:
    """`PATH.lora_A.weight` [r, in] and `PATH.lora_B.weight` [out, r], copies on the CPU."""
    return {key: weight.detach().cpu().clone() for key, weight in _weights(unet, adapter).items()}


@torch.no_grad()
def set_lora_state(unet: nn.Module, state: Mapping[str, torch.Tensor], adapter: str = "trained") -> None:
    """Put back what `lora_state` took.

    Raises: ModelError when the state is of another LoRA.
    """
    weights = _weights(unet, adapter)
    if {key: value.shape for key, value in weights.items()} != {key: value.shape for key, value in state.items()}:
        raise ModelError(
            "the saved LoRA weights fit another model, rank or choice of layers", "the settings it began with"
        )
    for key, weight in weights.items():
        weight.copy_(state[key])


def lora_file(unet: nn.Module, adapter: str, metadata: Mapping[str, str] | None = None) -> Contents:
    """What diffusers' LoRA file holds, adapter metadata in its header, so that alpha survives.

    metadata  further header entries, for example the training settings
    """
    config: LoraConfig = getattr(unet, "peft_config")[adapter]  # noqa: B009 - nn.Module types it as a tensor
    settings = {f"unet.{key}": getattr(config, key) for key in ("r", "lora_alpha", "rank_pattern", "alpha_pattern")}
    targets = config.target_modules
    settings["unet.target_modules"] = sorted(targets if isinstance(targets, set) else lora_layers(unet, adapter))
    header = {"format": "pt", **(metadata or {}), METADATA_KEY: json.dumps(settings, indent=2, sort_keys=True)}
    return {f"unet.{key}": value for key, value in lora_state(unet, adapter).items()}, header


def kohya_file(unet: nn.Module, adapter: str, metadata: Mapping[str, str] | None = None) -> Contents:
    """The same LoRA with the keys that ComfyUI and A1111 read, one alpha tensor per layer."""
    tensors: dict[str, torch.Tensor] = {}
    names = kohya_unet_names(unet)
    for name, layer in lora_layers(unet, adapter).items():
        down, up = (weight.detach().cpu().clone() for weight in _pair(layer, adapter))
        tensors |= {f"{names[name]}.lora_down.weight": down, f"{names[name]}.lora_up.weight": up}
        tensors[f"{names[name]}.alpha"] = torch.tensor(float(layer.lora_alpha[adapter]), device="cpu")
    return tensors, {"format": "pt", **(metadata or {})}


def _inject_change(part: nn.Module, adapter: str, changes: Mapping[str, LowRankChange]) -> None:
    ranks, alphas = ({name: getattr(change, key) for name, change in changes.items()} for key in ("rank", "alpha"))
    rank, alpha = (Counter(values.values()).most_common(1)[0][0] for values in (ranks, alphas))
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules="|".join(re.escape(name) for name in changes),
        rank_pattern={f"^{re.escape(name)}": own for name, own in ranks.items() if own != rank},
        alpha_pattern={f"^{re.escape(name)}": own for name, own in alphas.items() if own != alpha},
    )
    layers = _inject(part, adapter, config)
    assert layers.keys() == changes.keys(), "peft adapted other layers than the file names"
    dtype = next(part.parameters()).dtype
    for name, layer in layers.items():
        for weight, value in zip(_pair(layer, adapter), (changes[name].down, changes[name].up), strict=True):
            weight.data = value.to(weight.device, dtype)


def _inject(part: nn.Module, adapter: str, config: LoraConfig) -> dict[str, LoraLayer]:
    """Let peft wrap the modules; all LoRAs stay active, and requires_grad stays as it was (new weights: frozen)."""
    known = part.__dict__.pop("peft_config", {})  # peft forgets these, and warns of them
    with _keeping_requires_grad(part):
        inject_adapter_in_model(config, part, adapter)
        _activate_all(part)
    part.peft_config = {**known, adapter: config}  # type: ignore[assignment]
    return lora_layers(part, adapter)


def _eject(part: nn.Module, adapter: str) -> None:
    with _keeping_requires_grad(part):
        for name, layer in lora_layers(part, adapter).items():
            layer.delete_adapter(adapter)
            if not layer.lora_A:
                parent, _, child = name.rpartition(".")
                setattr(part.get_submodule(parent), child, layer.get_base_layer())
        _activate_all(part)
    known = {key: value for key, value in getattr(part, "peft_config", {}).items() if key != adapter}
    if known:
        part.peft_config = known  # type: ignore[assignment]
    elif hasattr(part, "peft_config"):
        del part.peft_config


def _activate_all(part: nn.Module) -> None:
    """peft activates only the newest adapter, on every layer."""
    for module in part.modules():
        if isinstance(module, LoraLayer):
            module.set_adapter(list(module.lora_A))


def _enable_adapters(model: DiffusionModel, enabled: bool) -> None:
    for part in model.lora_parts.values():
        with _keeping_requires_grad(part):
            for module in part.modules():
                if isinstance(module, LoraLayer):
                    module.enable_adapters(enabled)
    model.forget_prompts()


@contextmanager
def _keeping_requires_grad(part: nn.Module) -> Iterator[None]:
    """peft sets the flag of weights at will; afterwards only those that had it have it."""
    trained = {id(parameter) for parameter in part.parameters() if parameter.requires_grad}
    yield
    for parameter in part.parameters():
        parameter.requires_grad_(id(parameter) in trained)


def _pair(layer: LoraLayer, adapter: str) -> tuple[nn.Parameter, nn.Parameter]:
    """The down [r, in] and up [out, r] weights."""
    down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    assert isinstance(down, nn.Parameter)
    assert isinstance(up, nn.Parameter)
    return down, up


def _weights(unet: nn.Module, adapter: str) -> dict[str, nn.Parameter]:
    return {
        f"{name}.lora_{letter}.weight": weight
        for name, layer in lora_layers(unet, adapter).items()
        for letter, weight in zip("AB", _pair(layer, adapter), strict=True)
    }


def _check_scale(name: str, scale: float) -> None:
    if not math.isfinite(scale):
        raise ModelError(f"{name}: the LoRA scale {scale} is not a number", "a scale such as 0.8")


def _free_name(model: DiffusionModel) -> str:
    used = {info["adapter"] for info in model.loras}
    return next(name for name in (f"lora_{n}" for n in count()) if name not in used)


def _fingerprint(changes: Mapping[LayerName, LowRankChange]) -> str:
    """Digest of the change itself: the same for every dialect that it is written in."""
    digest = hashlib.sha256()
    for place, change in sorted(changes.items()):
        digest.update(f"{place}{change.alpha}".encode())
        for tensor in (change.down, change.up):
            digest.update(tensor.float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
