"""safetensors files as we write them: the same bytes for the same content, whole or absent, and sealed on request.

The format is 8 bytes of header length, the header as JSON padded to a multiple of 8, then the tensors without gaps
(https://github.com/huggingface/safetensors, section Format). The library's own writer puts metadata in random order,
makes files that only their owner can read, and leaves one of the full size behind when it is killed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from smoothtool.errors import ModelError, SmoothtoolError
from smoothtool.files.storage.writing import write_bytes_atomic
from smoothtool.readers.tensors import open_tensors

if TYPE_CHECKING:
    import torch

SEAL = "checksum"
ENTRY = "entry"
"""In the header of a cache's file, what it was written for: under another's name it is no answer."""
DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}

Tensors = Mapping[str, "torch.Tensor"]


def write_tensors(path: Path, tensors: Tensors, metadata: Mapping[str, str], *, seal: bool = False) -> None:
    """Write a safetensors file.

    seal  add a checksum of everything to the metadata, by which `read_sealed` knows a damaged file
    Raises: StorageError.
    """
    sealed = {**metadata, SEAL: checksum(tensors, metadata)} if seal else metadata
    write_bytes_atomic(path, _parts(tensors, sealed))


def read_sealed(
    path: Path, *, fault: type[SmoothtoolError] = ModelError, hint: str = "another copy of it", known: bool = False
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata, the seal left out.

    known  a file without a seal is taken as it is: versions before 0.2 wrote none
    Raises: `fault` when the file is missing, damaged, or not sealed.
    """
    with open_tensors(path, fault=fault, hint=hint) as file:
        metadata = dict(file.header.metadata)
        tensors = {name: file.get(name) for name in file.header.tensors}
    seal = metadata.pop(SEAL, None)
    if (seal is not None or not known) and seal != checksum(tensors, metadata):
        raise fault(f"{path}: the file is damaged (its checksum differs)", hint)
    return tensors, metadata


def is_intact(path: Path, entry: str) -> bool:
    """Whether a sealed file is there, as it was written, and for this entry of a cache."""
    try:
        _, metadata = read_sealed(path)
    except ModelError:
        return False
    return metadata.get(ENTRY) == entry


def checksum(tensors: Tensors, metadata: Mapping[str, str] | None = None) -> str:
    """safetensors has none of its own, and a flipped bit is another result without a word."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(tensors):
        digest.update(f"{name}{tuple(tensors[name].shape)}{tensors[name].dtype}".encode())
        digest.update(_bytes(tensors[name]))
    if metadata is not None:
        digest.update(json.dumps(metadata, sort_keys=True).encode())
    return digest.hexdigest()


def _parts(tensors: Tensors, metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """The largest items first, so that each tensor begins at a multiple of its items' size."""
    order = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    for name in order:
        begin, end = end, end + tensors[name].numel() * tensors[name].element_size()
        dtype = DTYPES[str(tensors[name].dtype).removeprefix("torch.")]
        header[name] = {"dtype": dtype, "shape": list(tensors[name].shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    yield from (_bytes(tensors[name]) for name in order)


def _bytes(tensor: torch.Tensor) -> memoryview:
    import torch

    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
