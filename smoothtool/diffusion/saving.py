"""A model as an ordinary diffusers folder, which diffusers' own pipeline of the family reads."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.parts import TEXT_MODEL
from smoothtool.errors import storage_error

OS_ERROR = re.compile(r"os error (\d+)")
LEFT_OUT: dict[str, dict[str, object]] = {
    "StableDiffusionPipeline": {
        "safety_checker": (None, None),
        "feature_extractor": (None, None),
        "requires_safety_checker": False,
    }
}
"""What diffusers expects of a pipeline's index, and does without when told so."""


def save_model(model: DiffusionModel, folder: Path, write_json: Callable[[Path, Any], None]) -> None:
    """Write every part into `folder`, which must not be in use; the model must carry no LoRA.

    A live LoRA would be written into the folder's weights under names that cannot be read back.
    write_json  writes data to a file; weights get the rights of such a file, as their own writer locks others out
    Raises: StorageError.
    """
    assert not model.loras, "a model is saved without LoRAs"
    parts: dict[str, Any] = {**model.parts, **model.text.tokenizers}
    try:
        for name, part in parts.items():
            part.save_pretrained(folder / name)
        spell_for_every_version(folder / "text_encoder")
    except SafetensorError as error:  # which says in words alone what the system said
        number = OS_ERROR.search(str(error))
        raise storage_error(folder, OSError(int(number[1]), "") if number else OSError(str(error))) from error
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    scheduler = {"_class_name": "DDIMScheduler", **model.schedule.config}
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    index = {
        "_class_name": model.text.pipeline,
        "_diffusers_version": diffusers.__version__,
        **{name: _class_of(part) for name, part in parts.items()},
        "scheduler": ("diffusers", scheduler["_class_name"]),
        **model.text.settings,
        **LEFT_OUT.get(model.text.pipeline, {}),
    }
    write_json(folder / "model_index.json", index)
    for weights in folder.rglob("*.safetensors"):
        weights.chmod((folder / "model_index.json").stat().st_mode)


def spell_for_every_version(text_encoder: Path) -> None:
    """Begin the keys of a saved CLIPTextModel by `text_model.`, as it was published and as every transformers reads it.

    Since 5.6 transformers saves them without, and older ones would take none of them.
    """
    path = text_encoder / "model.safetensors"
    weights = {f"{TEXT_MODEL}{key.removeprefix(TEXT_MODEL)}": value for key, value in load(path.read_bytes()).items()}
    save_file(weights, path, metadata={"format": "pt"})


def _class_of(part: object) -> tuple[str, str]:
    """(library, class) as model_index.json has them."""
    kind = type(part)
    return kind.__module__.partition(".")[0], kind.__name__
