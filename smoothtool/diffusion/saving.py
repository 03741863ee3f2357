"""A model as an ordinary diffusers folder, which `StableDiffusionPipeline.from_pretrained` reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers

from smoothtool.diffusion.model import DiffusionModel

PARTS = {
    "unet": ("diffusers", "UNet2DConditionModel"), "vae": ("diffusers", "AutoencoderKL"),
    "text_encoder": ("transformers", "CLIPTextModel"), "tokenizer": ("transformers", "CLIPTokenizer"),
}  # fmt: skip


def save_model(model: DiffusionModel, folder: Path, write_json: Callable[[Path, Any], None]) -> None:
    """Write every part into `folder`, which must not be in use; the model must carry no LoRA.

    A live LoRA would be written into the folder's weights under names that cannot be read back.
    write_json  writes data to a file; weights get the rights of such a file, as their own writer locks others out
    """
    assert not model.loras, "a model is saved without LoRAs"
    for part in PARTS:
        getattr(model, part).save_pretrained(folder / part)
    (folder / "scheduler").mkdir(parents=True, exist_ok=True)
    scheduler = {"_class_name": "DDIMScheduler", **model.schedule.config}
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    index = {
        "_class_name": "StableDiffusionPipeline", "_diffusers_version": diffusers.__version__, **PARTS,
        "scheduler": ("diffusers", scheduler["_class_name"]), "safety_checker": (None, None),
        "feature_extractor": (None, None), "requires_safety_checker": False,
    }  # fmt: skip
    write_json(folder / "model_index.json", index)
    for weights in folder.rglob("*.safetensors"):
        weights.chmod((folder / "model_index.json").stat().st_mode)
