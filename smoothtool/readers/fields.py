"""JSON and the like as data of known types: every value is asked for with its type, and refused with its place."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smoothtool.errors import InputError, SmoothtoolError
from smoothtool.readers.text import decode_text, read_text

LARGEST_JSON_BYTES = 50_000_000
MAX_DEPTH = 32
_NUMBER = re.compile(r"\s*[-+]?[0-9.]+([eE][-+]?[0-9]+)?\s*")
_MISSING: Any = object()


def read_json(
    path: Path,
    *,
    limit_bytes: int = LARGEST_JSON_BYTES,
    fault: type[SmoothtoolError] = InputError,
    hint: str = "another copy of it",
) -> Any:
    """The plain value in a JSON file.

    Raises: `fault` when the file cannot be read, or is no JSON, or is nested deeper than `MAX_DEPTH`.
    """
    return parse_json(read_text(path, limit_bytes=limit_bytes, fault=fault, hint=hint), str(path), fault, hint)


def parse_json(
    content: str | bytes,
    place: str,
    fault: type[SmoothtoolError] = InputError,
    hint: str = "another copy of it",
    *,
    once: bool = False,
) -> Any:
    """The same of a text, or of bytes in any encoding that `decode_text` reads, that came from `place`.

    once  refuse a key that is given twice, of which the last would count: for what people write
    """
    text = decode_text(content, place, fault, hint) if isinstance(content, bytes) else content
    try:
        value = json.loads(text, object_pairs_hook=_each_once) if once else json.loads(text)
    except _TwiceError as error:
        raise fault(f"{place}: {error} is given twice", "keep one of each") from error
    except json.JSONDecodeError as error:
        where = f"{place}:{error.lineno}" if "\n" in text.strip() else place
        raise fault(f"{where}: is not readable JSON ({error.msg})", hint) from error
    except ValueError as error:  # a number of thousands of digits
        raise fault(f"{place}: is not readable JSON ({error})", hint) from error
    except RecursionError as error:
        raise fault(f"{place}: is nested too deeply", hint) from error
    if not _is_shallow(value):
        raise fault(f"{place}: is nested too deeply", hint)
    return value


def read_fields(
    path: Path,
    *,
    limit_bytes: int = LARGEST_JSON_BYTES,
    fault: type[SmoothtoolError] = InputError,
    hint: str = "another copy of it",
) -> Fields:
    """The JSON object in a file. Raises: `fault`, as `read_json`, and when it is no object."""
    return as_fields(read_json(path, limit_bytes=limit_bytes, fault=fault, hint=hint), str(path), fault, hint)


def as_fields(
    value: Any, place: str, fault: type[SmoothtoolError] = InputError, hint: str = "another copy of it"
) -> Fields:
    """A value that has to be a JSON object. Raises: `fault`."""
    if not isinstance(value, Mapping):
        raise fault(f"{place}: is {shown(value)}, not a JSON object", hint)
    return Fields(value, place, fault, hint)


@dataclass(frozen=True)
class Fields:
    """A JSON object. Each getter returns a value of its type, `default` where the key is missing or null, or refuses.

    place  file, or file and key, that errors begin with
    """

    values: Mapping[str, Any]
    place: str
    fault: type[SmoothtoolError] = InputError
    hint: str = ""

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def wrong(self, key: str, wanted: str) -> SmoothtoolError:
        """The error for a key whose value is not what is wanted: to be raised."""
        value = self.values.get(key)
        kind = "the text " if isinstance(value, str) and _NUMBER.fullmatch(value) else ""  # "1" and 1 look alike
        what = f"{key} is missing" if value is None else f"{key} is {kind}{shown(value)}, not {wanted}"
        return self.fault(f"{self.place}: {what}", self.hint)

    def text(self, key: str, default: str = _MISSING) -> str:
        return self._of(key, default, "a text", is_text)

    def truth(self, key: str, default: bool = _MISSING) -> bool:
        return self._of(key, default, "true or false", lambda value: isinstance(value, bool))

    def number(self, key: str, default: float = _MISSING, *, low: float = -math.inf, high: float = math.inf) -> float:
        """A finite number from `low` to `high`."""
        wanted = "a number" if low == -math.inf and high == math.inf else f"a number from {low:g} to {high:g}"
        found = self._of(key, default, wanted, lambda value: is_number(value) and low <= value <= high)
        return float(found) if is_number(found) else found

    def whole(self, key: str, default: int = _MISSING, *, low: int = 0, high: int = 2**31 - 1) -> int:
        wanted = f"a whole number from {low} to {high}"
        return self._of(key, default, wanted, lambda value: is_whole(value) and low <= value <= high)

    def texts(self, key: str, default: list[str] = _MISSING) -> list[str]:
        return self._of(key, default, "a list of texts", lambda value: _all(value, is_text))

    def numbers(self, key: str, default: list[float] = _MISSING) -> list[float]:
        return self._of(key, default, "a list of numbers", lambda value: _all(value, is_number))

    def wholes(self, key: str, default: list[int] = _MISSING) -> list[int]:
        return self._of(key, default, "a list of whole numbers", lambda value: _all(value, is_whole))

    def items(self, key: str, default: list[Any] = _MISSING) -> list[Any]:
        return self._of(key, default, "a list", lambda value: isinstance(value, list))

    def fields(self, key: str, default: Mapping[str, Any] = _MISSING) -> Fields:
        found = self._of(key, default, "a JSON object", lambda value: isinstance(value, Mapping))
        return Fields(found, f"{self.place}: {key}", self.fault, self.hint)

    def _of(self, key: str, default: Any, wanted: str, right: Any) -> Any:
        value = self.values.get(key)
        if value is None and default is not _MISSING:
            return default
        if value is None or not right(value):
            raise self.wrong(key, wanted)
        return value


def is_text(value: Any) -> bool:
    """A text that can be written again: JSON can spell halves of letters, which UTF-8 cannot."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def is_number(value: Any) -> bool:
    """A finite number; true and false are none, nor is a whole number that no float can hold."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return abs(value) < 1e300


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def shown(value: Any) -> str:
    """A value as an error quotes it: short, on one line."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return "a list"
    if is_whole(value) and abs(value) >= 10**20:
        return "a huge number"
    text = " ".join(str(value).split())
    return (text if len(text) <= 60 else f"{text[:59]}…") or "empty"


def _all(value: Any, right: Any) -> bool:
    return isinstance(value, list) and all(right(one) for one in value)


class _TwiceError(Exception):
    """A key that an object has twice."""


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _TwiceError(shown(key))
        found[key] = value
    return found


def _is_shallow(value: Any) -> bool:
    """Whether nothing lies deeper than `MAX_DEPTH`; level by level, since a recursion could run out of stack."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            if isinstance(parent, (dict, list))
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not level:
            return True
    return False
