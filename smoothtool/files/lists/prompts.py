"""Prompt lists: a text file with one prompt a line, or a COCO captions file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smoothtool.errors import InputError
from smoothtool.files.lists.captions import split_lines
from smoothtool.files.lists.metadata import check_captions
from smoothtool.readers.fields import read_json
from smoothtool.readers.text import read_text

COCO_HINT = "one prompt a line in a .txt, or COCO's captions_val2017.json"
LARGEST_COCO_BYTES = 500_000_000
"""captions_train2017.json has 92 MB."""


def read_prompts(path: Path) -> list[str]:
    """The prompts in the order of the file, without empty lines; of a COCO picture the first caption.

    Raises: InputError when the file is missing, unreadable, or holds no prompts.
    """
    lines = list(_coco_captions(path).values()) if _is_coco(path) else split_lines(read_text(path, hint=COCO_HINT))
    prompts = [" ".join(line.split()) for line in lines if line.strip()]
    check_captions(tuple(prompts), str(path))
    if not prompts:
        raise InputError(f"{path}: there are no prompts in this file", COCO_HINT)
    return prompts


def prompts_of(path: Path, names: list[str]) -> list[str]:
    """A prompt for each picture: by its file name in COCO's captions that know these names, else line by line.

    Raises: InputError as `read_prompts`, for counts that differ, and for a picture that the captions do not know.
    """
    captions = _coco_captions(path) if _is_coco(path) else {}
    if not captions.keys() & set(names):
        prompts = read_prompts(path)
        if len(prompts) != len(names):
            hint = "one prompt per picture, in name order"
            raise InputError(f"{len(names)} pictures have {len(prompts)} prompts", hint)
        return prompts
    unknown = [name for name in names if name not in captions]
    if unknown:
        raise InputError(f"{path}: there is no caption for {unknown[0]} ({len(unknown)} in all)", "COCO's own pictures")
    return [" ".join(captions[name].split()) for name in names]


def _is_coco(path: Path) -> bool:
    return path.suffix.lower() == ".json"


def _coco_captions(path: Path) -> dict[Any, str]:
    """The first caption of every picture, by its file name, or by its id where the file does not name it."""
    try:
        found = read_json(path, limit_bytes=LARGEST_COCO_BYTES, hint=COCO_HINT)
        names = {image["id"]: image["file_name"] for image in found.get("images", [])}
        first: dict[Any, str] = {}
        for annotation in found["annotations"]:
            first.setdefault(names.get(annotation["image_id"], annotation["image_id"]), str(annotation["caption"]))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: this is not a COCO captions file", COCO_HINT) from error
    return first
