"""Settings that are written as small texts: sizes, LoRAs with a scale, points, shares."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence

SIDE_PX = range(16, 8193)
"""Sides a picture may be asked for: under 16 no model has latents left, over 8192 no machine has memory left."""


def parse_size(text: str) -> tuple[int, int | None]:
    """`512` is a longest side, `768x512` is width and height, in pixels; height is None for the first.

    Raises: ValueError.
    """
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    sides = [int(side) for side in match.groups() if side] if match else []
    if not sides or any(side not in SIDE_PX for side in sides):
        raise ValueError(
            f"is {text}, not a side (512) or WIDTHxHEIGHT (768x512) from {SIDE_PX.start} to {SIDE_PX.stop - 1} pixels"
        )
    return sides[0], sides[1] if len(sides) == 2 else None


def parse_lora(text: str) -> tuple[str, float]:
    """`PATH[:SCALE]`, where a path may itself hold colons and begin with `~`; the scale is 1 when not given.

    Raises: ValueError when the scale is not finite, the path is empty, or another notation was meant.
    """
    if match := re.fullmatch(r"<lora:([^:>]*):?([^:>]*)>", text):
        raise ValueError(f"is {text}, not PATH:SCALE such as {match[1]}.safetensors:{match[2] or '0.8'}")
    path, colon, tail = text.rpartition(":")
    if colon and re.fullmatch(r"[-+]?\d*,\d+", tail):
        raise ValueError(f"is {text}, whose scale needs a point: {path}:{tail.replace(',', '.')}")
    try:
        scale = float(tail) if colon else 1.0
    except ValueError:
        colon, scale = "", 1.0
    path = path if colon else text
    if not path or not math.isfinite(scale):
        raise ValueError(f"is {text}, not PATH or PATH:SCALE with a finite scale")
    return os.path.expanduser(path), scale


def parse_fraction(text: str) -> float:
    """A number from 0 to 1.

    Raises: ValueError.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ValueError(f"is {text or 'empty'}, not a number from 0 to 1 or several such as 0.6,0.8")
    return value


def has_words(prompt: str, phrase: str) -> bool:
    """Whether one or several whole words follow each other in the prompt, whatever their case."""
    clean, wanted = words_of(prompt), words_of(phrase)
    return any(clean[at : at + len(wanted)] == wanted for at in range(len(clean)) if wanted)


def words_of(prompt: str) -> list[str]:
    """The words in lower case, without the punctuation around them."""
    return [word.strip(".,;:!?\"'") for word in prompt.lower().split()]


def parse_weight(text: str) -> tuple[str, float]:
    """`fox=2` makes the word fox count twice.

    Raises: ValueError.
    """
    word, equals, factor = text.rpartition("=")
    try:
        value = float(factor) if equals else math.nan
    except ValueError:
        value = math.nan
    if not word.strip() or not math.isfinite(value):
        raise ValueError(f"is {text}, not WORD=FACTOR such as fox=2")
    return word.strip(), value


def parse_point(text: str) -> tuple[float, float, float, float]:
    """`20,32:40,32` is handle x, y and target x, y in pixels.

    Raises: ValueError.
    """
    pairs = [pair.split(",") for pair in text.split(":")]
    try:
        (handle_x, handle_y), (target_x, target_y) = [[float(number) for number in pair] for pair in pairs]
    except ValueError:
        raise ValueError(f"is {text}, not from X,Y to X,Y such as 20,32:40,32") from None
    if not all(map(math.isfinite, (handle_x, handle_y, target_x, target_y))):
        raise ValueError(f"is {text}, and not every number in it is finite")
    return handle_x, handle_y, target_x, target_y


_BRACKETED = re.compile(
    r"<[^<>]{1,200}>|(?<!\\)\(\([^()]{1,200}\)\)|(?<!\\)\([^()]{1,200}\)|\[[^\[\]]{1,200}\]|\b(?:BREAK|AND)\b"
)
_WEIGHTED = re.compile(r".*:\s*\d*\.?\d+\s*.", re.DOTALL)
_LOADING = ("<lora:", "<lyco:", "<hypernet:", "<embedding:")


def a1111_notation(prompt: str) -> list[str]:
    """The parts of a prompt that A1111's programs would not take as words, such as (red:1.4), ((red)), [red|blue],
    [red:blue:0.5], <lora:x:0.8>, BREAK and AND.

    A prompt all in capital letters has no BREAK or AND that could be meant so.
    """
    capitals = prompt == prompt.upper()

    def is_notation(part: str) -> bool:
        if part in ("BREAK", "AND"):
            return not capitals
        if part.startswith("<"):
            return part.lower().startswith(_LOADING)
        return part.startswith("((") or (part.startswith("[") and "|" in part) or bool(_WEIGHTED.fullmatch(part))

    return [part for part in _BRACKETED.findall(prompt) if is_notation(part)]


def parse_shard(text: str | None) -> tuple[int, int]:
    """`2/4` is the second of four shares; None is the whole, (1, 1).

    Raises: ValueError.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text or "1/1")
    index, count = (int(part) for part in match.groups()) if match else (0, 0)
    if not 1 <= index <= count:
        raise ValueError(f"is {text}, not a share such as 2/4")
    return index, count


def checked_shard(text: str | None) -> str | None:
    """The same text. Raises: ValueError as `parse_shard`."""
    parse_shard(text)
    return text


def parse_seeds(texts: Sequence[str]) -> list[str]:
    """Seeds as they are typed: one after the other, with commas between, and `4x` for the four seeds 0 to 3.

    A text that is none of these stays as it is, for the option itself to refuse. The same words mean the same seeds
    always, so that a batch goes on when its command is given again.
    Raises: ValueError when one is there twice.
    """
    found: list[str] = []
    for part in (part.strip() for text in texts for part in text.split(",")):
        many = re.fullmatch(r"([1-9]\d{0,3})x", part)
        found += [str(seed) for seed in range(int(many[1]))] if many else [part]
    twice = next((seed for seed in found if found.count(seed) > 1), None)
    if twice is not None:
        raise ValueError(f"has {twice} twice")
    return found


def parse_setting(text: str) -> tuple[str, str]:
    """`blend=cat` sets the option `blend`; dashes in the key are underscores.

    Raises: ValueError.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"is {text}, not KEY=VALUE such as steps=20")
    return key.strip().replace("-", "_"), value


def working_size(size: str | None) -> tuple[int, int] | int | None:
    """`--size` as `fit_image` takes it: None, a longest side, or width and height."""
    if size is None:
        return None
    width, height = parse_size(size)
    return width if height is None else (width, height)
