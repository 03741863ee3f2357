"""`smoothtool lora convert`: a LoRA in any dialect as diffusers' file or kohya's."""

from __future__ import annotations

from pathlib import Path

from smoothtool.commands.lora.places import read_metadata, target_file
from smoothtool.commands.shared.loras import lora_files
from smoothtool.diffusion.lora_keys import read_lora
from smoothtool.diffusion.lora_writing import diffusers_contents, kohya_contents
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.files.storage.tensors import write_tensors


def convert(lora: str, target: Path, model: DiffusionModel, dialect: str, *, force: bool) -> Path:
    """Write the LoRA as `target` with the layers' names of `dialect`, diffusers or kohya; its header goes along.

    lora   a path or a name; its scale, where one is given, is multiplied into the file
    model  whose layers the LoRA is for
    Raises: ModelError as `read_lora` does, UsageError when there is something at `target` already.
    """
    place = target_file(target, force)
    ((path, scale),) = lora_files([lora])
    changes = {name: change.scaled(scale) for name, change in read_lora(path, model.lora_parts).items()}
    metadata = read_metadata(path)
    contents = (
        diffusers_contents(changes, metadata)
        if dialect == "diffusers"
        else kohya_contents(changes, model.lora_parts, metadata)
    )
    write_tensors(place, *contents)
    return place
