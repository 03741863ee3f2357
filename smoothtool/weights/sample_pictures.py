"""The pictures that come with smoothtool, and the file behind the name of any picture."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from smoothtool.errors import InputError, closest
from smoothtool.readers.regular import at_home
from smoothtool.weights.models import HERE

DEFAULT_PROMPTS = HERE / "prompts-stickers.txt"


SAMPLES = HERE / "samples"
SCHEME = "samples:"


def sample_name(text: str) -> str | None:
    """NAME of `samples:NAME`; None for a path."""
    return text.removeprefix(SCHEME) if text.startswith(SCHEME) else None


def sample(name: str) -> str:
    """How the sample picture of that name is asked for."""
    return f"{SCHEME}{name}"


def resolve_picture(text: str) -> Path:
    """The file behind `samples:NAME` or a path.

    Raises: InputError when there is none.
    """
    name = sample_name(text)
    path = at_home(text) if name is None else SAMPLES / f"{name}.png"
    if os.path.isfile(path):
        return path
    if name is not None:
        names = list(sample_names())
        near = closest(name, names)
        raise InputError(f"{text}: no such sample picture", sample(near) if near else ", ".join(names))
    what = "is no regular file" if os.path.lexists(path) else "no such file"
    what = "is a folder, not a picture" if os.path.isdir(path) else what
    raise InputError(f"{text}: {what}", "check the path, or samples:NAME for a picture that comes with smoothtool")


def sample_names() -> Iterator[str]:
    return (path.stem for path in sorted(SAMPLES.glob("*.png")))


def natural(text: str) -> list[tuple[bool, int, str]]:
    """Sorting key under which frame2 comes before frame10."""
    parts = re.findall(r"\d+|\D+", text)
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parts]
