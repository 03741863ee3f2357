"""Inversions on disk and in the cache."""

from __future__ import annotations

import json
import os
import pickle
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from storage_toys import limited_files

from smoothtool.errors import ModelError, UsageError
from smoothtool.files.storage import leftovers
from smoothtool.files.storage.cache import InversionCache, cache_key
from smoothtool.files.storage.identity_cache import IdentityCache
from smoothtool.files.storage.inversions import load_inversion, save_inversion, sidecar
from smoothtool.readers.tensors import open_tensors
from smoothtool.types import Inversion, LatentTrajectory

INFO = {"model": "abc", "size_px": [32, 32], "lora": []}


def inversion() -> Inversion:
    torch.manual_seed(0)
    latents = torch.randn(4, 2, 4, 2, 2)
    return Inversion(
        method="nti",
        trajectory=LatentTrajectory(latents, (601, 301, 1)),
        reconstruction=latents[0],  # a view: two names for the same memory must not trouble the file
        prompts=('a <fox> "é"', ""),
        guidance_scale=7.5,
        null_embeds=torch.randn(3, 1, 5, 6),
        sampled=latents.flip(0),
        losses=(0.5, float("inf"), 1e-5),
        converged=False,
        unet_calls=42,
        extra={"residuals": torch.randn(3, 2).to(torch.bfloat16)},
    )


def assert_equal(left: Any, right: Any) -> None:
    if isinstance(left, torch.Tensor):
        assert left.dtype == right.dtype
        assert torch.equal(left, right)
    elif isinstance(left, (Inversion, LatentTrajectory)):
        for part in fields(left):
            assert_equal(getattr(left, part.name), getattr(right, part.name))
    elif isinstance(left, dict):
        assert left.keys() == right.keys()
        for key in left:
            assert_equal(left[key], right[key])
    else:
        assert left == right


def test_an_inversion_comes_back_as_it_was(tmp_path: Path) -> None:
    saved = replace(inversion(), losses=(0.5, 0.25, 1e-5))
    save_inversion(tmp_path / "a.safetensors", saved, INFO)
    loaded, info = load_inversion(tmp_path / "a.safetensors")
    assert_equal(saved, loaded)
    assert info == INFO


def test_an_inversion_without_optional_parts_comes_back(tmp_path: Path) -> None:
    saved = replace(inversion(), null_embeds=None, sampled=None, losses=(), extra={})
    save_inversion(tmp_path / "a.safetensors", saved, INFO)
    assert_equal(saved, load_inversion(tmp_path / "a.safetensors")[0])


def test_a_loss_that_diverged_comes_back_as_not_a_number(tmp_path: Path) -> None:
    save_inversion(tmp_path / "a.safetensors", inversion(), INFO)
    losses = load_inversion(tmp_path / "a.safetensors")[0].losses
    assert losses[1] != losses[1]
    assert losses[0] == 0.5


def test_the_sidecar_tells_a_person_what_is_inside(tmp_path: Path) -> None:
    save_inversion(tmp_path / "a.safetensors", inversion(), INFO)
    facts = json.loads((tmp_path / "a.json").read_text())
    assert facts["info"] == INFO
    assert facts["tensors"]["latents"] == [4, 2, 4, 2, 2]
    assert facts["converged"] is False


def damaged(path: Path, kind: str) -> None:
    if kind != "missing":
        save_inversion(path, inversion(), INFO)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "flipped bit":
        whole = bytearray(path.read_bytes())
        whole[-20] ^= 1
        path.write_bytes(whole)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "a LoRA":
        save_file({"lora.weight": torch.ones(2)}, path, {"format": "pt"})
    elif kind == "another format":
        save_file({"latents": torch.ones(2)}, path, {"smoothtool": '{"format": 99}'})
    elif kind == "no JSON":
        save_file({"latents": torch.ones(2)}, path, {"smoothtool": "{"})


@pytest.mark.parametrize(
    "kind", ["missing", "truncated", "flipped bit", "empty", "folder", "a LoRA", "another format", "no JSON"]
)
def test_a_bad_inversion_file_is_a_sentence_that_names_it(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.safetensors"
    damaged(path, kind)
    with pytest.raises(ModelError) as caught:
        load_inversion(path)
    assert str(path) in caught.value.what
    assert caught.value.hint


def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    save_inversion(tmp_path / "a.safetensors", replace(inversion(), null_embeds=torch.zeros(2, 1, 5, 6)), INFO)
    with pytest.raises(ModelError, match="null_embeds"):
        load_inversion(tmp_path / "a.safetensors")


def with_header(path: Path, **changes: Any) -> Path:
    """A whole file, its checksum right, with other facts in its header."""
    save_inversion(path, inversion(), {**INFO, "original_sizes_px": [[40, 30], [32, 32]]})
    with open_tensors(path) as file:
        tensors = {name: file.get(name) for name in file.header.tensors}
        facts = json.loads(file.header.metadata["smoothtool"])
    text = changes.pop("text", None)
    save_file(tensors, path, {"smoothtool": text or json.dumps({**facts, **changes})})
    return path


def test_a_lora_of_ours_is_called_weights_by_its_header(tmp_path: Path) -> None:
    save_file({"unet.a": torch.ones(2)}, tmp_path / "a.safetensors", metadata={"smoothtool": "0.1.0"})
    with pytest.raises(ModelError, match="these are weights, not an inversion"):
        load_inversion(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "1"},
        {"format": None},
        {"format": [1]},
        {"method": 3},
        {"method": None},
        {"timesteps": "abc"},
        {"timesteps": [601, "301", 1]},
        {"timesteps": [1, 301, 601]},
        {"timesteps": [601, 301]},
        {"timesteps": []},
        {"timesteps": [10**9, 301, 1]},
        {"timesteps": [601, 301, -1]},
        {"prompts": "ab"},
        {"prompts": [1, 2]},
        {"prompts": ["a"]},
        {"prompts": ["\ud800", ""]},
        {"guidance_scale": "7.5"},
        {"guidance_scale": float("inf")},
        {"guidance_scale": None},
        {"losses": 3},
        {"losses": ["x"]},
        {"converged": 1},
        {"unet_calls": -1},
        {"unet_calls": 1.5},
        {"info": None},
        {"info": []},
        {"info": {"size_px": [0, 32]}},
        {"info": {"size_px": "32"}},
        {"info": {"size_px": [10**9, 10**9]}},
        {"info": {"size_px": [32, 32], "original_sizes_px": [[1, 1]]}},
        {"info": {"size_px": [32, 32], "original_sizes_px": [[10**6, 10**6], [1, 1]]}},
        {"info": {"size_px": [32, 32], "original_sizes_px": [1, 2]}},
        {"text": "[" * 50_000},
        {"text": "[]"},
        {"text": "null"},
        {"text": '{"format": 1' + "0" * 9000 + "}"},
        {"checksum": 3},
        {"method": "edict"},
    ],
    ids=lambda changes: str(changes)[:60],
)
def test_an_odd_header_is_refused_in_a_sentence_even_if_the_tensors_are_whole(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    with pytest.raises(ModelError) as refused:
        load_inversion(with_header(tmp_path / "a.safetensors", **changes))
    assert str(tmp_path) in refused.value.what
    assert "\n" not in refused.value.what
    assert refused.value.hint


def test_tensors_of_whole_numbers_are_refused(tmp_path: Path) -> None:
    made = inversion()
    counts = replace(made, trajectory=replace(made.trajectory, latents=made.trajectory.latents.int()))
    save_inversion(tmp_path / "a.safetensors", replace(counts, reconstruction=made.reconstruction.int()), INFO)
    with pytest.raises(ModelError, match="whole numbers"):
        load_inversion(tmp_path / "a.safetensors")


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("exploded",)


def test_a_pickle_posing_as_safetensors_is_refused_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(pickle.dumps(Bomb()))
    torch.save(Bomb(), tmp_path / "b.safetensors")
    for name in "ab":
        with pytest.raises(ModelError):
            load_inversion(tmp_path / f"{name}.safetensors")
    assert not (tmp_path / "exploded").exists()


def test_what_was_put_is_found_again(tmp_path: Path) -> None:
    cache = InversionCache(tmp_path)
    assert cache.get("k") is None
    cache.put("k", replace(inversion(), losses=()), INFO)
    found = cache.get("k")
    assert found is not None
    assert found[1] == INFO
    assert_equal(found[0], replace(inversion(), losses=()))


def test_a_corrupt_entry_is_deleted_and_counts_as_none(tmp_path: Path) -> None:
    cache = InversionCache(tmp_path)
    cache.put("k", inversion(), INFO)
    damaged(tmp_path / "k.safetensors", "flipped bit")
    assert cache.get("k") is None
    assert cache.entries() == []
    assert not sidecar(tmp_path / "k.safetensors").exists()


def test_a_flipped_bit_in_the_header_is_found_too(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_inversion(path, inversion(), INFO)
    path.write_bytes(path.read_bytes().replace(b"[601, 301, 1]", b"[601, 300, 1]"))
    with pytest.raises(ModelError, match="checksum"):
        load_inversion(path)


def test_an_entry_under_the_name_of_another_counts_as_none(tmp_path: Path) -> None:
    cache = InversionCache(tmp_path)
    cache.put("k", inversion(), INFO)
    (tmp_path / "k.safetensors").rename(tmp_path / "l.safetensors")
    assert cache.get("l") is None
    assert cache.entries() == []


def test_the_least_recently_used_entry_goes_first(tmp_path: Path) -> None:
    big = InversionCache(tmp_path)
    for age, key in enumerate("cba"):
        big.put(key, inversion(), INFO)
        os.utime(tmp_path / f"{key}.safetensors", (time.time() - 1000 + age,) * 2)
    assert big.get("c") is not None  # the oldest, used again
    size = big.entries()[0].size_bytes
    InversionCache(tmp_path, max_bytes=3 * size).put("d", inversion(), INFO)
    assert [entry.key for entry in big.entries()] == ["d", "c", "a"]


def test_a_cache_of_no_size_keeps_nothing(tmp_path: Path) -> None:
    cache = InversionCache(tmp_path / "cache", max_bytes=0)
    cache.put("k", inversion(), INFO)
    assert not (tmp_path / "cache").exists()


def test_the_cache_sweeps_old_leftovers_when_it_stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".0123456789ab.part.safetensors").write_text("killed while writing")
    InversionCache(tmp_path).put("a", inversion(), INFO)
    assert (tmp_path / ".0123456789ab.part.safetensors").exists()
    monkeypatch.setattr(leftovers, "LEFTOVER_AGE_S", -1.0)
    InversionCache(tmp_path).put("b", inversion(), INFO)
    assert not (tmp_path / ".0123456789ab.part.safetensors").exists()
    assert {entry.key for entry in InversionCache(tmp_path).entries()} == {"a", "b"}


def test_a_cache_folder_that_cannot_be_made_costs_a_note(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    cache = InversionCache(tmp_path / "file" / "cache")
    assert "not kept in the cache" in cache.put("k", inversion(), INFO)
    assert cache.get("k") is None
    assert cache.entries() == []


def test_a_full_disk_costs_a_note_and_leaves_no_half_file(tmp_path: Path) -> None:
    with limited_files(1000):
        note = InversionCache(tmp_path).put("k", inversion(), INFO)
    assert "k.safetensors: cannot be written" in note
    assert {path.name for path in tmp_path.iterdir()} <= {"cache.lock"}


def test_the_environment_moves_and_sizes_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMOOTHTOOL_CACHE", str(tmp_path))
    monkeypatch.setenv("SMOOTHTOOL_CACHE_MB", "3")
    cache = InversionCache()
    assert cache.folder == tmp_path / "inversions"
    assert cache.max_bytes == 3_000_000


def test_a_cache_that_cannot_be_looked_into_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMOOTHTOOL_CACHE", str(tmp_path / ("n" * 300)))
    assert InversionCache().get("k") is None
    assert IdentityCache().get("k") is None
    assert "not kept in the cache" in InversionCache().put("k", inversion(), INFO)


def test_a_cache_in_a_home_that_nobody_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMOOTHTOOL_CACHE", "~nosuchuser/cache")
    with pytest.raises(UsageError, match="~nosuchuser/cache: there is no such home"):
        InversionCache()


@pytest.mark.parametrize("text", ["-1", "many", "1.5", "nan"])
def test_an_impossible_cache_size_names_its_variable(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("SMOOTHTOOL_CACHE_MB", text)
    with pytest.raises(UsageError, match="SMOOTHTOOL_CACHE_MB"):
        InversionCache()


def test_the_key_depends_on_every_pixel_the_shape_and_every_setting() -> None:
    pixel_values = torch.zeros(1, 3, 4, 8)
    changed = pixel_values.clone()
    changed[0, 2, 3, 7] = 1e-6
    settings = {"prompts": ["a fox"], "steps": 50}
    keys = {
        cache_key(pixel_values, settings),
        cache_key(changed, settings),
        cache_key(pixel_values.reshape(1, 3, 8, 4), settings),
        cache_key(pixel_values, {**settings, "steps": 51}),
        cache_key(pixel_values, {**settings, "prompts": ["a fox "]}),
    }
    assert len(keys) == 5


def test_the_key_does_not_depend_on_the_order_of_settings() -> None:
    pixel_values = torch.zeros(1, 3, 4, 4)
    assert cache_key(pixel_values, {"a": 1, "b": 2}) == cache_key(pixel_values, {"b": 2, "a": 1})
