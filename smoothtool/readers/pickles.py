"""Pickles of plain data, walked opcode by opcode: nothing in them is ever imported, called or given a class.

Numbers, texts, bytes, lists, tuples and dicts are built; numpy's arrays and scalars are recognised by name and built
here, from a plain numeric dtype, a checked shape and that many bytes. Python's own unpickler calls what the file names.
"""

from __future__ import annotations

import io
import math
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from smoothtool.errors import InputError, SmoothtoolError

MAX_OPCODES = 1_500_000
"""A mask of 1024 x 1024 pixels as nested lists has about one million."""
MAX_VALUES = 4_000_000
"""With every reference followed: lists of references to lists soon stand for more than memory holds."""
MAX_DEPTH = 16
MAX_DIMENSIONS = 8
_DTYPE = re.compile(r"[<>|=]?([biuf][1248])|bool|\?")
_MARK: Any = object()


class _RefusedError(Exception):
    """Why a pickle is not taken, as one clause."""


@dataclass(frozen=True)
class _Name:
    """What a file wants to import: kept as its name."""

    module: str
    name: str


@dataclass(eq=False)
class _Array:
    """An array that is described first and filled later, as numpy pickles it."""

    value: np.ndarray | None = None


@dataclass(eq=False)
class _Dtype:
    code: str

    def dtype(self) -> np.dtype:
        return np.dtype(self.code)


def parse_pickle(
    content: bytes, place: str, fault: type[SmoothtoolError] = InputError, hint: str = "another copy of it"
) -> Any:
    """The plain value that a pickle of any protocol holds; arrays as numpy arrays.

    place  the file, which errors name
    Raises: `fault` when it is damaged, grows without end, or holds anything but plain data.
    """
    try:
        machine = _Machine()
        for count, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(content))):
            if count >= MAX_OPCODES:
                raise _RefusedError("it is too long")
            machine.take(opcode.name, argument)
        return _Plain().value(machine.result, 0)[0]
    except _RefusedError as refused:
        raise fault(f"{place}: is no pickle of plain data ({refused})", hint) from refused
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, AttributeError) as error:
        raise fault(f"{place}: is a damaged pickle", hint) from error


@dataclass
class _Machine:
    """The unpickler's stack and memo, for the opcodes of plain data."""

    stack: list[Any] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)
    result: Any = None

    def take(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise _RefusedError(f"the operation {name} has no place in it")

    def pop_mark(self) -> list[Any]:
        """Everything above the topmost mark, which goes as well."""
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                values = self.stack[at + 1 :]
                del self.stack[at:]
                return values
        raise _RefusedError("a mark is missing")

    def fill(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise _RefusedError("something is appended to no list")
        target.extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise _RefusedError("a dict is damaged")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, (str, int, float, bytes)):  # hashing nested tuples can take for ever
                raise _RefusedError("a dict has a key that is neither text nor number")
            target[key] = value

    def tuple_of(self, count: int) -> None:
        values = tuple(self.stack[len(self.stack) - count :])
        if len(values) != count:
            raise _RefusedError("a tuple is damaged")
        del self.stack[len(self.stack) - count :]
        self.stack.append(values)

    def named(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise _RefusedError("a name is damaged")
        known = _Name(module.replace("numpy._core.", "numpy.core."), name)
        if known not in _NAMES:
            raise _RefusedError(f"{module[:60]}.{name[:60]} has no place in it")
        self.stack.append(known)

    def stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.named(module, name)

    def reduce(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, _Name) or not isinstance(arguments, tuple) or _NAMES[name] is None:
            raise _RefusedError("something is called that is no array")
        self.stack.append(_NAMES[name](*arguments))  # type: ignore[misc]

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Dtype) and isinstance(state, tuple) and state[1] in ("<", ">", "|", "="):
            target.code = state[1] + target.code.lstrip("<>|=")
        elif isinstance(target, _Array) and isinstance(state, tuple) and len(state) == 5:
            _, shape, dtype, is_fortran, content = state
            target.value = _filled(content, dtype, shape, "F" if is_fortran is True else "C")
        else:
            raise _RefusedError("something is filled that is no array")

    def remember(self, at: int) -> None:
        self.memo[at] = self.stack[-1]

    def recall(self, at: int) -> None:
        self.stack.append(self.memo[at])

    def new_dict(self) -> None:
        values = self.pop_mark()
        self.stack.append({})
        self.set_items(values)

    def stop(self) -> None:
        if len(self.stack) != 1:
            raise _RefusedError("it ends too early")
        self.result = self.stack.pop()


class _Plain:
    """The result without placeholders. Lists may be referred to often, or hold themselves: each is looked at once."""

    def __init__(self) -> None:
        self.known: dict[int, tuple[Any, int]] = {}

    def value(self, value: Any, depth: int) -> tuple[Any, int]:
        """The value, and how many values it stands for."""
        if not isinstance(value, (dict, list, tuple)):
            return _leaf(value), 1
        if id(value) in self.known:
            return self.known[id(value)]
        if depth > MAX_DEPTH:
            raise _RefusedError("it is nested too deeply")
        children = value.values() if isinstance(value, dict) else value
        found = [self.value(child, depth + 1) for child in children]
        size = 1 + sum(count for _, count in found)
        if size > MAX_VALUES:
            raise _RefusedError("it grows without end")
        plain = (one for one, _ in found)
        built = dict(zip(value, plain, strict=True)) if isinstance(value, dict) else type(value)(plain)
        self.known[id(value)] = built, size
        return built, size


def _leaf(value: Any) -> Any:
    if isinstance(value, _Array):
        if value.value is None:
            raise _RefusedError("an array has no values")
        return value.value
    if isinstance(value, (_Name, _Dtype)) or value is _MARK:
        raise _RefusedError("a class stands where a value belongs")
    return value


def _empty_array(kind: Any, shape: Any, code: Any) -> _Array:
    """What numpy calls first for every array; shape and values follow."""
    return _Array()


def _dtype(code: Any, *flags: Any) -> _Dtype:
    if not isinstance(code, str) or not _DTYPE.fullmatch(code):
        raise _RefusedError(
            f"an array of {str(code)[:20]}, not of plain numbers" if isinstance(code, str) else "a dtype"
        )
    return _Dtype({"bool": "b1", "?": "b1"}.get(code, code))


def _scalar(dtype: Any, content: Any) -> Any:
    return _filled(content, dtype, (), "C").item()


def _from_buffer(content: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    """How protocol 5 writes arrays."""
    return _Array(_filled(content, dtype, shape, "F" if order == "F" else "C"))


def _filled(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if isinstance(content, str):  # as Python 2 wrote bytes
        content = content.encode("latin-1")
    right = isinstance(dtype, _Dtype) and isinstance(content, (bytes, bytearray)) and isinstance(shape, tuple)
    if not right or len(shape) > MAX_DIMENSIONS or not all(type(side) is int and side >= 0 for side in shape):
        raise _RefusedError("an array of unusual form")
    kind = dtype.dtype()
    if math.prod(shape) * kind.itemsize != len(content):
        raise _RefusedError("an array has another size than its shape says")
    return np.frombuffer(content, kind).reshape(shape, order=order)


def _latin(text: Any, encoding: Any) -> bytes:
    """How protocols below 3 write bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _RefusedError("bytes of unusual form")
    return text.encode("latin-1")


_NAMES: dict[_Name, Callable[..., Any] | None] = {
    _Name("numpy.core.multiarray", "_reconstruct"): _empty_array,
    _Name("numpy.core.multiarray", "scalar"): _scalar,
    _Name("numpy.core.numeric", "_frombuffer"): _from_buffer,
    _Name("numpy", "dtype"): _dtype,
    _Name("numpy", "ndarray"): None,  # an argument of _reconstruct, never called
    _Name("_codecs", "encode"): _latin,
    _Name("__builtin__", "bytes"): lambda: b"",
    _Name("builtins", "bytes"): lambda: b"",
}
_VALUES = {
    "INT",
    "BININT",
    "BININT1",
    "BININT2",
    "LONG",
    "LONG1",
    "LONG4",
    "FLOAT",
    "BINFLOAT",
    "STRING",
    "BINSTRING",
    "SHORT_BINSTRING",
    "UNICODE",
    "BINUNICODE",
    "SHORT_BINUNICODE",
    "BINUNICODE8",
    "BINBYTES",
    "SHORT_BINBYTES",
    "BINBYTES8",
    "BYTEARRAY8",
}
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "MARK": lambda: _MARK,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
}
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "POP": lambda machine, _: machine.stack.__delitem__(-1),
    "POP_MARK": lambda machine, _: machine.pop_mark().clear(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "APPEND": lambda machine, _: machine.fill([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.fill(machine.pop_mark()),
    "LIST": lambda machine, _: machine.stack.append(machine.pop_mark()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_mark())),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_mark()),
    "DICT": lambda machine, _: machine.new_dict(),
    "PUT": _Machine.remember,
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "MEMOIZE": lambda machine, _: machine.remember(len(machine.memo)),
    "GET": _Machine.recall,
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "GLOBAL": lambda machine, names: machine.named(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.stack_global(),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
    "STOP": lambda machine, _: machine.stop(),
}
