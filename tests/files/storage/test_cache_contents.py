"""`smoothtool cache list` and `clear` know every cache."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from cli_toys import call_main
from storage_toys import names

from smoothtool.files.storage.cache_contents import KINDS, cached, clear
from smoothtool.files.storage.identity_cache import KEPT, IdentityCache

TENSORS = {"x": torch.ones(4)}


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One entry of each kind, with what lies beside it."""
    monkeypatch.setenv("SMOOTHTOOL_CACHE", str(tmp_path))
    for name in (
        "inversions/abc.safetensors",
        "inversions/abc.json",
        "inversions/cache.lock",
        "identity/def.safetensors",
        "training/latents-1/part-0.safetensors",
        "identity/.0123456789ab.part.safetensors",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x" * 1000)
    return tmp_path


def test_every_kind_is_listed_with_its_size(caches: Path) -> None:
    found = {kind: [(entry.name, entry.size_bytes) for entry in cached(kind)] for kind in KINDS}
    assert found == {"inversions": [("abc", 2000)], "identity": [("def", 1000)], "training": [("latents-1", 1000)]}


def test_clearing_leaves_nothing_but_locks(caches: Path) -> None:
    assert [clear(kind) for kind in KINDS] == [1, 1, 1]
    assert [path.name for path in caches.rglob("*") if path.is_file()] == ["cache.lock"]
    assert [clear(kind) for kind in KINDS] == [0, 0, 0]


def test_the_commands_name_every_kind_and_clear_one_alone(caches: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, said = call_main(capsys, "cache", "list")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["inversions", "abc"],
        ["identity", "def"],
        ["training", "latents-1"],
    ]
    assert all(f"{kind}: 1 entries" in said for kind in KINDS)
    assert call_main(capsys, "cache", "clear", "identity")[0] == 0
    assert names(caches / "identity") == []
    assert len(cached("training")) == 1
    code, _, said = call_main(capsys, "cache", "clear", "identiy")
    assert (code, "try: identity" in said) == (2, True)


def test_the_identity_cache_keeps_what_was_used_last(caches: Path) -> None:
    cache = IdentityCache()
    for number in range(KEPT + 2):
        path = cache.put(f"{number:03d}", TENSORS, {})
        os.utime(path, (number, number))
    assert cache.get("000") is None
    assert cache.get("065") is not None
    cache._path("065").rename(cache._path("066"))
    assert cache.get("066") is None  # made for another picture
    assert len(list((caches / "identity").glob("[!.]*"))) == KEPT - 1
