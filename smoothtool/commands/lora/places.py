"""Where the results of `smoothtool lora` go, and what the header of a LoRA says besides its weights."""

from __future__ import annotations

from pathlib import Path

from smoothtool.errors import ModelError, UsageError
from smoothtool.files.storage.output import results_folder
from smoothtool.readers.tensors import read_header
from smoothtool.weights.lora_names import ADAPTER_METADATA


def target_file(target: Path, force: bool) -> Path:
    """The absolute path of a .safetensors file to be written.

    Raises: UsageError when it is named otherwise, its folder is not there, or it exists and `force` is off.
    """
    place = results_folder(target)
    if place.suffix.lower() != ".safetensors":
        raise UsageError(f"{target}: the name has to end in .safetensors", f"{target}.safetensors")
    if not place.parent.is_dir():
        raise UsageError(f"{target.parent}: there is no such folder", f"mkdir -p {target.parent}")
    if place.exists() and (place.is_dir() or not force):
        raise UsageError(f"{target}: is there already", "another name, or --force")
    return place


def lora_in(path: Path) -> Path:
    """The LoRA's own file, where `path` is a folder with one. Raises: ModelError."""
    if not path.is_dir():
        return path
    files = [file for file in sorted(path.glob("*.safetensors")) if not file.stem.endswith("-kohya")]
    if not files:
        raise ModelError(f"{path}: this folder has no .safetensors", "the LoRA's own file")
    return files[0]


def read_metadata(path: Path) -> dict[str, str]:
    """What the trainer wrote into the header; not what describes the weights, which are written anew."""
    found = read_header(lora_in(path)).metadata
    return {key: value for key, value in found.items() if key not in (ADAPTER_METADATA, "format")}
