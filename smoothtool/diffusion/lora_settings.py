"""The settings beside a LoRA's weights: diffusers' header, or the `adapter_config.json` of peft."""

from __future__ import annotations

import math
import re
from collections.abc import Collection

from smoothtool.errors import ModelError
from smoothtool.readers.fields import Fields, as_fields, parse_json, read_fields
from smoothtool.readers.regular import is_regular
from smoothtool.readers.tensors import TensorsHeader
from smoothtool.weights.lora_names import ADAPTER_METADATA

METADATA_KEY = ADAPTER_METADATA
HINT = "another copy of the LoRA"
_REGULAR_EXPRESSION = re.compile(r"[*+?()\[\]{}|\\^$]")


def read_settings(header: TensorsHeader, parts: Collection[str]) -> dict[str, Fields]:
    """The adapter's settings per model part; empty where the file has none.

    Raises: ModelError when they are no JSON object.
    """
    place = f"{header.path}: {METADATA_KEY}"
    if METADATA_KEY in header.metadata:
        whole = as_fields(parse_json(header.metadata[METADATA_KEY], place, ModelError, HINT), place, ModelError, HINT)
        own = {
            part: {
                key.removeprefix(f"{part}."): value for key, value in whole.values.items() if key.startswith(f"{part}.")
            }
            for part in parts
        }
        return {part: Fields(values, place, ModelError, HINT) for part, values in own.items()}
    beside = header.path.with_name("adapter_config.json")
    if is_regular(beside) and any(key.startswith("base_model.") for key in header.tensors):
        settings = read_fields(beside, fault=ModelError, hint=HINT)
    else:
        settings = Fields({}, place, ModelError, HINT)
    return dict.fromkeys(parts, settings)


def declared_alpha(settings: Fields, name: str, rank: int) -> float:
    """The alpha of the layer at that path: the last pattern that names it, else the adapter's own, else the rank.

    Raises: ModelError when one is not a number, or a pattern is no name of layers.
    """
    alpha = settings.number("lora_alpha", settings.number("alpha", float(rank)))
    patterns = settings.fields("alpha_pattern", {})
    for pattern in patterns.values:
        if names_layer(pattern, name, patterns):
            alpha = patterns.number(pattern)
            break
    return alpha * (math.sqrt(rank) if settings.truth("use_rslora", False) else 1.0)


def names_layer(pattern: str, name: str, fields: Fields) -> bool:
    """Whether a pattern of peft means the layer at that path: its end, or with `^` in front the whole of it.

    peft takes patterns for regular expressions, of which some run for ever. Escaped dots are dots here, and anything
    that only a regular expression can mean is refused.
    """
    plain = re.sub(r"\\([.\-_])", r"\1", pattern).removesuffix("$")
    whole = plain.startswith("^")
    plain = plain.removeprefix("^")
    if not plain or _REGULAR_EXPRESSION.search(plain):
        raise fields.fault(f"{fields.place}: {pattern[:60]} is not the name of layers", fields.hint)
    return name == plain or (not whole and name.endswith(f".{plain}"))
