"""Prompt lists: a text file with one prompt a line, or a COCO captions file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from smoothtool.errors import InputError

COCO_HINT = "one prompt a line in a .txt, or COCO's captions_val2017.json"


def read_prompts(path: Path) -> list[str]:
    """The prompts in the order of the file, without empty lines; of a COCO picture the first caption.

    Raises: InputError when the file is missing, unreadable, or holds no prompts.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file", COCO_HINT) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: this prompt file cannot be read as UTF-8 text", COCO_HINT) from error
    lines = _coco_captions(path, text) if path.suffix.lower() == ".json" else text.splitlines()
    prompts = [" ".join(line.split()) for line in lines if line.strip()]
    if not prompts:
        raise InputError(f"{path}: there are no prompts in this file", COCO_HINT)
    return prompts


def _coco_captions(path: Path, text: str) -> list[str]:
    try:
        annotations = json.loads(text)["annotations"]
        first: dict[Any, str] = {}
        for annotation in annotations:
            first.setdefault(annotation["image_id"], str(annotation["caption"]))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: this is not a COCO captions file", COCO_HINT) from error
    return list(first.values())
