"""Names -> places, of LoRAs; what the LoRAs with a name are, and where they are published."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from smoothtool.errors import ModelError, closest
from smoothtool.readers.regular import at_home
from smoothtool.weights.kinds import SD1


@dataclass(frozen=True)
class KnownLora:
    """A LoRA with a short name: one file of a repository or Space of the hub."""

    name: str
    hub_id: str
    repo_type: Literal["model", "space"]
    file: str
    architecture: str
    licence: str
    about: str

    @property
    def source(self) -> str:
        """The page of its repository."""
        return f"https://huggingface.co/{'spaces/' if self.repo_type == 'space' else ''}{self.hub_id}"


_KNOWN = (
    KnownLora(
        "smooth-sd15",
        "shi-labs/Smooth-Diffusion",
        "space",
        "assets/models/smooth_lora.safetensors",
        SD1,
        "not stated",
        "LoRA: the Smooth-LoRA of the paper's authors, for SD 1.5 and its fine-tunes (--lora)",
    ),
)
KNOWN_LORAS = {lora.name: lora for lora in _KNOWN}


def resolve_lora(text: str) -> Path:
    """The place of a LoRA: a known name, or a path, which wins only when it is written as one (./smooth-sd15).

    Raises: ModelError when it is not on this machine.
    """
    path = find_lora(text)
    if path is not None:
        return path
    if text in KNOWN_LORAS:
        raise ModelError(f"{text}: is not on this machine", f"smoothtool models pull {text}")
    near = closest(text, KNOWN_LORAS)
    named = f"check the path, or a LoRA by its name: {', '.join(KNOWN_LORAS)}"
    raise ModelError(f"{text}: there is no such LoRA", f"did you mean: {near}" if near else named)


def find_lora(text: str) -> Path | None:
    """The place of a LoRA if it is on this machine; never asks the network."""
    if text not in KNOWN_LORAS:
        path = at_home(text)
        return path if os.path.exists(path) else None  # unlike Path.exists it takes names of any length
    from huggingface_hub import try_to_load_from_cache

    known = KNOWN_LORAS[text]
    found = try_to_load_from_cache(known.hub_id, known.file, repo_type=known.repo_type)
    return Path(found) if isinstance(found, str) else None
