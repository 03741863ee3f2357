"""A pickle is data: numbers, texts, containers and numpy's arrays of numbers, whatever else it asks for."""

from __future__ import annotations

import collections
import datetime
import io
import pickle
import random
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smoothtool.errors import InputError
from smoothtool.readers.pickles import parse_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def refusal(content: bytes) -> str:
    with pytest.raises(InputError) as refused:
        parse_pickle(content, "a.pkl")
    assert "\n" not in refused.value.what
    return refused.value.what


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data_comes_back_as_it_was(protocol: int) -> None:
    shared = [1, 2]
    data = {"a": [1, -2, 3.5, 10**30, True, False, None], "ü": ("x", b"\x00\xff", ()), 3: {"b": [shared, shared]}}
    assert parse_pickle(pickle.dumps(data, protocol), "a.pkl") == data


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", ["u1", "i2", "<i4", ">i8", "f2", "f4", ">f8", "?"])
def test_arrays_of_every_plain_dtype_come_back(protocol: int, kind: str) -> None:
    array = (np.arange(24).reshape(2, 3, 4) % 2).astype(kind)
    for one in (array, np.asfortranarray(array), array[0, 0], np.zeros((0, 3), kind)):
        back = parse_pickle(pickle.dumps([one], protocol), "a.pkl")[0]
        assert back.dtype == one.dtype
        assert np.array_equal(back, one)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numpy_scalars_become_plain_numbers(protocol: int) -> None:
    back = parse_pickle(pickle.dumps([np.float32(0.5), np.int64(-3), np.bool_(True)], protocol), "a.pkl")
    assert back == [0.5, -3, True]
    assert [type(one) for one in back] == [float, int, bool]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "value",
    [
        np.array([object()]),
        np.array(["text"]),
        np.array([1 + 2j]),
        np.zeros(2, [("a", "i4")]),
        np.array(["2020-01-01"], "M8[D]"),
        np.ndarray,
        np.dtype("f4"),
        datetime.date(2020, 1, 1),
        Fraction(1, 2),
        collections.OrderedDict(a=1),
        {1, 2},
        print,
        int,
        random.Random(0),
        Path("x"),
        io.BytesIO(b"x"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_is_no_plain_data_is_refused(protocol: int, value: Any) -> None:
    try:
        content = pickle.dumps(value, protocol)
    except TypeError:
        pytest.skip("cannot be pickled at this protocol")
    assert "is no pickle of plain data" in refusal(content)


def call(module: str, name: str, *arguments: Any) -> bytes:
    """A pickle that calls module.name(*arguments)."""
    body = pickle.dumps(arguments, 2)[2:-1]
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + body + b"R."


def test_numpys_array_class_is_never_called() -> None:
    """With dtype object its buffer would be a list of pointers."""
    assert "called that is no array" in refusal(call("numpy", "ndarray", (1,), "O", b"\x41" * 8))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("numpy.core.multiarray", "frombuffer"),
        ("numpy", "load"),
        ("numpy.core._internal", "_ctypes"),
        ("smoothtool.errors", "InputError"),
        ("builtins", "getattr"),
    ],
)
def test_no_other_name_is_imported(module: str, name: str) -> None:
    assert f"{module}.{name} has no place in it" in refusal(call(module, name, "x"))


@pytest.mark.parametrize(
    ("shape", "code", "size"),
    [
        ((2,), "O", 16),
        ((2, 3), "f8", 40),
        ((-1,), "f8", 8),
        ((2**40, 2**40), "u1", 8),
        ((2,), "V8", 16),
        ((2,), "f8,O", 16),
        ((True,), "u1", 1),
        ((1,) * 40, "u1", 1),
        ("ab", "u1", 2),
        (2, "u1", 2),
    ],
)
def test_arrays_that_are_not_what_they_say_are_refused(
    shape: tuple[int, ...] | str | int, code: str, size: int
) -> None:
    def inner(value: Any, protocol: int = 2) -> bytes:
        return pickle.dumps(value, protocol)[2:-1]

    dtype = b"cnumpy\ndtype\n" + inner((code, False, True)) + b"R"
    content = inner(b"\0" * size, 3) + dtype + inner(shape) + inner("C")
    found = refusal(b"\x80\x03cnumpy.core.numeric\n_frombuffer\n(" + content + b"tR.")
    assert "an array of" in found or "another size" in found


def test_a_file_that_multiplies_itself_stops_early() -> None:
    bomb: Any = []
    for _ in range(12):
        bomb = [bomb] * 10
    began = time.monotonic()
    assert "grows without end" in refusal(pickle.dumps(bomb))
    assert time.monotonic() - began < 5


def test_lists_that_hold_themselves_and_deep_nesting_are_refused() -> None:
    loop: list[Any] = []
    loop.append(loop)
    assert "nested too deeply" in refusal(pickle.dumps(loop))
    assert "nested too deeply" in refusal(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".")


def test_nested_tuples_as_keys_are_refused_before_they_are_hashed() -> None:
    key: Any = ()
    for _ in range(60):
        key = (key, key)
    assert "neither text nor number" in refusal(b"\x80\x02}" + pickle.dumps(key, 2)[2:-1] + b"K\x01s.")


def test_random_damage_is_one_sentence_or_other_data() -> None:
    data = {"prompt": "a fox", "points": [[1, 2], (3, np.int64(4))], "mask": np.eye(6)}
    dice = random.Random(0)
    for index in range(300):
        content = bytearray(pickle.dumps(data, index % 6))
        for _ in range(dice.randrange(1, 6)):
            content[dice.randrange(len(content))] = dice.randrange(256)
        try:
            parse_pickle(bytes(content[: dice.choice([None, dice.randrange(len(content))])]), "a.pkl")
        except InputError as refused:
            assert "\n" not in refused.what  # noqa: PT017 - other data is as good as a refusal
