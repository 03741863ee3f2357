"""The LoRAs of a job as files: by path, or by a name whose file has to be the one that it was first."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from smoothtool.files.storage.checksums import check_noted
from smoothtool.jobs import parse_lora
from smoothtool.weights.loras import KNOWN_LORAS, resolve_lora


def lora_files(texts: Iterable[str]) -> list[tuple[Path, float]]:
    """File or folder, and scale, of every PATH[:SCALE] or NAME[:SCALE]; `none` is no LoRA.

    Raises: ModelError when one is not there, or a named one is another file than it was.
    """
    found = []
    for text in texts:
        if text == "none":
            continue
        name, scale = parse_lora(text)
        path = resolve_lora(name)
        if name in KNOWN_LORAS:
            check_noted(name, path)
        found.append((path, scale))
    return found
