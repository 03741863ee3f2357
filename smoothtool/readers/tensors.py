"""safetensors files: the header is checked here, key by key, before any tensor is read.

A file is 8 bytes of header length, the header as JSON, then the tensors without gaps: NAME -> dtype, shape and
data_offsets, and `__metadata__` from text to text (https://github.com/huggingface/safetensors, section Format).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from smoothtool.errors import ModelError, SmoothtoolError, first_line
from smoothtool.readers.fields import Fields, as_fields, parse_json
from smoothtool.readers.regular import open_regular

if TYPE_CHECKING:
    import torch

LARGEST_HEADER_BYTES = 25_000_000
MAX_DIMENSIONS = 8
ITEM_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1,
    "I16": 2, "U16": 2, "F16": 2, "BF16": 2, "I32": 4, "U32": 4, "F32": 4, "I64": 8, "U64": 8, "F64": 8,
}  # fmt: skip
REAL = {"F8_E5M2", "F8_E4M3", "F16", "BF16", "F32", "F64"}
"""The dtypes that weights come in."""
_OTHER_FILES = (
    (b"PK\x03\x04", "this is a pickle, which can run code when it is opened, and is refused"),  # torch's zip of pickles
    (b"\x80", "this is a pickle, which can run code when it is opened, and is refused"),  # protocol 2 and up
    (b"version https://git-lfs", "this is a Git LFS pointer: the file itself was not downloaded"),
    (b"<", "this is a web page, not the file that it should have led to"),
    (b"GGUF", "this is a GGUF file, not a safetensors file"),
)


@dataclass(frozen=True)
class TensorFacts:
    """What the header says of a tensor: its dtype as safetensors spells it, such as F16."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class TensorsHeader:
    """A checked header: facts by tensor name, and the texts of `__metadata__`."""

    path: Path
    tensors: Mapping[str, TensorFacts]
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class TensorsFile:
    """An open file with its checked header, and how to refuse what is in it."""

    header: TensorsHeader
    _opened: object
    fault: type[SmoothtoolError]
    hint: str

    def get(self, name: str) -> torch.Tensor:
        """The tensor of that name, on the CPU. Raises: `fault` when it cannot be read."""
        try:
            return self._opened.get_tensor(name)  # type: ignore[attr-defined]
        except Exception as error:  # a dtype that this torch does not know, a disk that fails
            raise self.fault(f"{self.header.path}: {name} cannot be read ({first_line(error)})", self.hint) from error


@contextmanager
def open_tensors(
    path: Path, *, fault: type[SmoothtoolError] = ModelError, hint: str = "another copy of it"
) -> Iterator[TensorsFile]:
    """A safetensors file, its tensors read one by one as torch tensors.

    Raises: `fault`, as `read_header`.
    """
    header = read_header(path, fault=fault, hint=hint)
    from safetensors import SafetensorError, safe_open

    try:
        opened = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise fault(f"{path}: the file is damaged ({first_line(error)})", hint) from error
    with opened as file:
        yield TensorsFile(header, file, fault, hint)


def read_header(
    path: Path, *, fault: type[SmoothtoolError] = ModelError, hint: str = "another copy of it"
) -> TensorsHeader:
    """The header of a whole safetensors file; no tensor is read, torch is not needed.

    Raises: `fault` when it is no regular file, another kind of file (which is named), cut short, or inconsistent.
    """
    with open_regular(path, fault=fault, hint=hint) as file:
        content, size = _header_bytes(path, file, fault, hint)
    found = as_fields(parse_json(content, f"{path}: header", fault, hint), f"{path}: header", fault, hint)
    metadata, rows, end = _metadata(found), {}, 0
    for name, begin, stop, facts in sorted(_rows(found), key=lambda row: row[1:3]):
        if begin != end:
            raise fault(f"{path}: header: {name} does not begin where the tensor before it ends", hint)
        rows[name], end = facts, stop
    whole = 8 + len(content) + end
    if size != whole:
        what = "cut short" if size < whole else "longer than its header says"
        raise fault(f"{path}: the file is {what} ({size:,} bytes of {whole:,})", hint)
    return TensorsHeader(path, rows, metadata)


def _header_bytes(path: Path, file: BinaryIO, fault: type[SmoothtoolError], hint: str) -> tuple[bytes, int]:
    size = os.fstat(file.fileno()).st_size
    start = file.read(64)
    length = int.from_bytes(start[:8], "little")
    if size == 0:
        raise fault(f"{path}: the file is empty", hint)
    if start[8:9] != b"{" or length > size - 8 or length > LARGEST_HEADER_BYTES:
        cut = start[8:9] == b"{" and 8 + length > size
        marks = () if cut and length <= LARGEST_HEADER_BYTES else _OTHER_FILES  # a length may begin as a pickle does
        other = next((words for mark, words in marks if start.lstrip().startswith(mark)), "")
        what = other or ("the file is cut short, inside its header" if cut else "this is not a safetensors file")
        raise fault(f"{path}: {what}", "a true .safetensors file" if other else hint)
    file.seek(8)
    return file.read(length), size


def _rows(header: Fields) -> Iterator[tuple[str, int, int, TensorFacts]]:
    for name in header.values:
        if name == "__metadata__":
            continue
        facts = header.fields(name)
        dtype, shape, offsets = facts.text("dtype"), facts.wholes("shape"), facts.wholes("data_offsets")
        if dtype not in ITEM_BYTES:
            raise header.fault(f"{header.place}: {name} has the dtype {dtype[:20]}, which cannot be used", header.hint)
        if len(shape) > MAX_DIMENSIONS or any(side < 0 for side in shape) or len(offsets) != 2:
            raise header.fault(f"{header.place}: {name} has no shape that a tensor can have", header.hint)
        if not 0 <= offsets[0] <= offsets[1] or offsets[1] - offsets[0] != math.prod(shape) * ITEM_BYTES[dtype]:
            raise header.fault(f"{header.place}: {name} has another size than its shape says", header.hint)
        yield name, offsets[0], offsets[1], TensorFacts(dtype, tuple(shape))


def _metadata(header: Fields) -> dict[str, str]:
    found = header.fields("__metadata__", {})
    return {key: found.text(key) for key in found.values}
