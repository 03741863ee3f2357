"""`smoothtool lora merge`: a model with LoRAs added to its weights, as a diffusers folder or as a single file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch

from smoothtool.commands.lora.places import target_file
from smoothtool.commands.shared.loras import lora_files
from smoothtool.diffusion.checkpoint import FLOAT8, open_checkpoint
from smoothtool.diffusion.loading import load_model
from smoothtool.diffusion.lora_keys import read_lora
from smoothtool.diffusion.lora_writing import delta, merge_changes, single_file_names
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.saving import save_model
from smoothtool.diffusion.single_file import load_single_file
from smoothtool.errors import ModelError, UsageError
from smoothtool.files.storage.output import free_space_check, new_folder
from smoothtool.files.storage.tensors import write_tensors
from smoothtool.files.storage.writing import write_json_atomic
from smoothtool.weights.models import ModelLocation, resolve_model

INDEX = "model_index.json"


def open_model(name: str) -> tuple[ModelLocation, DiffusionModel]:
    """The model on the CPU without any LoRA, in float32. Raises: ModelError."""
    place = resolve_model(name)
    if place.single_file is not None:
        model = load_single_file(place.single_file, name, place.tokenizer, device="cpu", dtype="float32")
    else:
        assert place.folder is not None
        model = load_model(place.folder, name, device="cpu", dtype="float32")
    return place, model


def merge(name: str, loras: Sequence[str], target: Path, *, dtype: str, force: bool) -> Path:
    """Write the model with the LoRAs, each times its scale, in its weights; the model and the LoRAs stay as they are.

    target  a folder, or for a model that is a single file also `NAME.safetensors`
    dtype   of the folder's weights: float16, bfloat16, float32; a single file keeps the dtype of each weight, but for
            float8, which becomes float16
    Raises: ModelError as `read_lora` does, UsageError when there is something at `target`, StorageError.
    """
    found = lora_files(loras)
    if not found:
        raise UsageError("there is no LoRA to merge", "--lora PATH[:SCALE]")
    place = resolve_model(name)
    one_file = target.suffix.lower() == ".safetensors"
    if one_file and place.single_file is None:
        raise UsageError(f"{target}: {name} is a folder, and is merged into a folder", "a target without .safetensors")
    if one_file:
        return _into_file(name, found, target_file(target, force))
    return _into_folder(name, found, target, dtype, force)


def _into_folder(name: str, loras: Sequence[tuple[Path, float]], target: Path, dtype: str, force: bool) -> Path:
    with new_folder(target, force=force, known_by=INDEX) as temporary:
        _, model = open_model(name)
        for path, scale in loras:
            merge_changes(model.lora_parts, read_lora(path, model.lora_parts), scale)
        precision = getattr(torch, dtype)
        modules: list[torch.nn.Module] = [model.unet, model.vae, *model.text.encoders.values()]
        for part in modules:
            part.to(precision)
        free_space_check(temporary, sum(weight.nbytes for part in modules for weight in part.state_dict().values()))
        save_model(model, temporary, write_json_atomic)
    return target.absolute()


def _into_file(name: str, loras: Sequence[tuple[Path, float]], target: Path) -> Path:
    place, model = open_model(name)
    assert place.single_file is not None
    free_space_check(target.parent, place.single_file.stat().st_size)
    with open_checkpoint(place.single_file, lambda width: None) as weights:
        added: dict[str, torch.Tensor] = {}
        for path, scale in loras:
            changes = read_lora(path, model.lora_parts)
            for layer, key in single_file_names(changes, model.lora_parts).items():
                if key not in weights.names:
                    raise ModelError(f"{place.single_file}: keeps {'.'.join(layer)} in another way", "a folder instead")
                own = weights.names[key]
                change = scale * delta(changes[layer], torch.Size(weights.shape(key)))
                added[own] = added[own] + change if own in added else change
        tensors = dict(_summed(weights.file.get, weights.file.header.tensors, added))
        write_tensors(target, tensors, dict(weights.file.header.metadata))
    return target


def _summed(
    get: Callable[[str], torch.Tensor], names: Iterable[str], added: Mapping[str, torch.Tensor]
) -> Iterator[tuple[str, torch.Tensor]]:
    for name in names:
        tensor = get(name)
        tensor = tensor.half() if tensor.dtype in FLOAT8 else tensor
        yield name, (tensor.float() + added[name]).to(tensor.dtype) if name in added else tensor
