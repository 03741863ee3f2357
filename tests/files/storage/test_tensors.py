"""Our safetensors files: what the library reads, always the same bytes, and sealed against damage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from storage_toys import limited_files, names

from smoothtool.errors import ModelError, StorageError
from smoothtool.files.storage.tensors import DTYPES, ENTRY, is_intact, read_sealed, write_tensors

TENSORS = {name: torch.arange(6).reshape(2, 3).to(getattr(torch, name)) for name in DTYPES} | {
    "scalar": torch.tensor(2.5),
    "none": torch.zeros(0, 4),
    "turned": torch.arange(6.0).reshape(2, 3).T,
}
METADATA = {"z": "é", "a": "1", "format": "pt"}


def test_the_library_reads_what_we_write(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, TENSORS, METADATA)
    found = load_file(path)
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == METADATA


def test_the_bytes_are_the_librarys_where_it_leaves_no_choice(tmp_path: Path) -> None:
    tensors = {name: part.contiguous() for name, part in TENSORS.items() if part.dtype == torch.float32}
    write_tensors(tmp_path / "a.safetensors", tensors, {"one": "key"})
    assert (tmp_path / "a.safetensors").read_bytes() == save(tensors, {"one": "key"})


def test_equal_content_in_any_order_is_equal_bytes(tmp_path: Path) -> None:
    for name, order in (("a", 1), ("b", -1)):
        tensors, metadata = (dict(list(part.items())[::order]) for part in (TENSORS, METADATA))
        write_tensors(tmp_path / name, tensors, metadata, seal=True)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_sealed_file_comes_back_without_its_seal(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, TENSORS, METADATA, seal=True)
    tensors, metadata = read_sealed(path)
    assert metadata == METADATA
    assert all(torch.equal(tensors[name], part) for name, part in TENSORS.items())


def test_a_flipped_bit_anywhere_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": torch.arange(5.0)}, {"facts": "[1, 2]", ENTRY: "it"}, seal=True)
    whole = path.read_bytes()
    for at in range(len(whole)):
        if whole[at : at + 1] != b" ":  # padding says nothing
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            assert not is_intact(path, "it"), f"byte {at} of {len(whole)}"
    path.write_bytes(whole)
    assert is_intact(path, "it")
    assert not is_intact(path, "another")


def test_a_file_without_a_seal_is_refused_unless_it_may_be_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": torch.ones(2)}, {})
    with pytest.raises(ModelError, match="checksum"):
        read_sealed(path)
    assert read_sealed(path, known=True)[0].keys() == {"x"}
    assert not is_intact(tmp_path / "none.safetensors", "none")


def test_a_full_disk_is_one_sentence_and_the_old_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": torch.ones(2)}, {})
    before = path.read_bytes()
    with limited_files(10_000), pytest.raises(StorageError, match=r"a\.safetensors: cannot be written"):
        write_tensors(path, {"x": torch.ones(10_000)}, {})
    assert path.read_bytes() == before
    assert names(tmp_path) == ["a.safetensors"]
