"""What can be said about one option, whichever door it comes through: flag, recipe key or Python keyword."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

SEED_END = 2**63
"""Seeds are what torch's generators take."""
COUNT_END = 10**9
"""Counts without another bound end here, far beyond anything that could be meant and within what floats hold."""
OPTIONS, INVERSION, SAMPLING, MODEL, OUTPUT = PANELS = ("Options", "Inversion", "Sampling", "Model", "Output")
"""Headings of the help, in the order in which they and their options are listed everywhere."""


PATH = "path"
"""A path, but for `samples:NAME` and addresses."""
PATH_OR_NAME = "path or name"
"""A path where there is such a file, possibly with `:SCALE` behind it; else a name."""
PATH_OR_MODEL, PATH_OR_LORA = "path or model", "path or LoRA"
"""The same, where the names of known models, or of known LoRAs, are no paths."""


@dataclass(frozen=True)
class Flag:
    """How a field appears on the command line.

    panel     the heading it stands under in the help
    delivery  it says where and how the result is handed over, and has no part in making the result again
    wants     what to ask for when the value is wrong, where the type and bounds do not say it
    path      whether it holds paths: PATH, or one of PATH_OR_... where it may be a name; fields of type Path always do
    names     words that are names even where a file is called the same
    """

    short: str = ""
    positional: bool = False
    panel: str = OPTIONS
    delivery: bool = False
    wants: str = ""
    path: str = ""
    names: tuple[str, ...] = ()


def key_of(name: str, field: FieldInfo) -> str:
    return field.alias or name


def label_of(name: str, field: FieldInfo) -> str:
    """The field as a user of the command line knows it: `--inner-steps`, or `IMAGES`."""
    return name.upper() if flag_of(field).positional else "--" + key_of(name, field).replace("_", "-")


def flag_of(field: FieldInfo) -> Flag:
    return next((extra for extra in field.metadata if isinstance(extra, Flag)), Flag())


def kind_of(field: FieldInfo) -> type:
    """The plain type behind an annotation: `int | None` is int, a Literal is str, `list[str]` is list."""
    annotation: Any = field.annotation
    if get_origin(annotation) in (Union, UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    origin = get_origin(annotation)
    return str if origin is Literal else origin or annotation


def path_of(field: FieldInfo) -> str:
    """PATH, one of PATH_OR_..., or nothing for fields that hold no paths."""
    return PATH if kind_of(field) is Path else flag_of(field).path


def choices_of(field: FieldInfo) -> tuple[str, ...]:
    """The words that a Literal field allows, else none."""
    return get_args(field.annotation) if get_origin(field.annotation) is Literal else ()


def demand_of(field: FieldInfo) -> str:
    """What a field wants, as a noun: `a whole number from 1 to 1000`."""
    if flag_of(field).wants:
        return flag_of(field).wants
    if choices_of(field):
        return "one of " + ", ".join(choices_of(field))
    nouns: dict[type, str] = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        list: "a list of texts",
        Path: "a path",
    }
    return nouns.get(kind_of(field), "a text") + range_of(field)


def range_of(field: FieldInfo) -> str:
    """The bounds in words, with the space before them: ` from 1 to 1000`."""
    words = ""
    for bound, word in (("ge", "from"), ("gt", "above"), ("le", "to"), ("lt", "below")):
        values = [getattr(extra, bound) for extra in field.metadata if hasattr(extra, bound)]
        words += "".join(f" {word} {value}" for value in values if value not in (SEED_END, COUNT_END))
    return words
