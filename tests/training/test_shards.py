"""Training data from webdataset shards: what is found, and what is named and left out."""

from __future__ import annotations

import tarfile
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image
from toys import tiny_model
from training_toys import log, same, weights

from smoothtool.commands.train import run as train
from smoothtool.errors import InputError
from smoothtool.jobs import TrainJob
from smoothtool.training.shards import find_shards, read_shards
from smoothtool.types import Report, silent


@pytest.fixture
def webdataset() -> ModuleType:
    return pytest.importorskip("webdataset", reason="webdataset comes with the extra smoothtool[test]")


def png(seed: int) -> bytes:
    stream = BytesIO()
    levels = np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(levels).save(stream, "PNG")
    return stream.getvalue()


def shard(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, BytesIO(content))
    return path


def names_of(shards: list[Path]) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    found, complaints = read_shards(shards)
    return {one.name: one.captions for one in found}, complaints


def test_what_webdataset_writes_is_read(webdataset: ModuleType, tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as writer:
        writer.write({"__key__": "x/0001", "png": png(1), "txt": "a cat\na kitten"})
        writer.write({"__key__": "x/0002", "png": png(2), "json": {"caption": "a dog"}})
    found, complaints = names_of([tmp_path / "a.tar"])
    assert found == {"a.tar/x/0001.png": ("a cat", "a kitten"), "a.tar/x/0002.png": ("a dog",)}
    assert complaints == []


def test_pictures_are_read_from_their_place_in_the_shard(tmp_path: Path) -> None:
    files = {"1.png": png(1), "1.txt": b"a cat", "2.png": png(2), "2.txt": b"a dog"}
    pictures, _ = read_shards([shard(tmp_path / "a.tar", files)])
    for picture, seed in zip(pictures, (1, 2), strict=True):
        assert picture.load().tobytes() == Image.open(BytesIO(png(seed))).tobytes()
    assert pictures[0].version != pictures[1].version


def test_missing_halves_and_damage_are_named(tmp_path: Path) -> None:
    files = {
        "1.png": png(1),
        "1.txt": b"a cat",
        "2.txt": b"nobody",
        "3.png": png(3),
        "4.png": b"",
        "4.txt": b"empty",
        "5.png": png(5),
        "5.json": b"{no json",
    }
    whole = shard(tmp_path / "a.tar", files)
    cut = tmp_path / "b.tar"
    cut.write_bytes(whole.read_bytes()[:700])
    pictures, complaints = read_shards([whole, cut])
    assert [picture.name for picture in pictures if picture.name.startswith("a.tar")] == ["a.tar/1.png", "a.tar/4.png"]
    assert [line.split(":")[0] for line in complaints[:3]] == ["a.tar/2.txt", "a.tar/3.png", "a.tar/5.png"]
    assert any(line.startswith("b.tar") for line in complaints[3:])
    with pytest.raises(InputError, match=r"a\.tar/4\.png: the file is empty"):
        pictures[1].load()


def test_texts_in_shards_are_read_as_beside_pictures(tmp_path: Path) -> None:
    files = {
        "1.png": png(1),
        "1.txt": "ein grüner\u2028Apfel\r\nzwei".encode("utf-16"),
        "2.png": png(2),
        "2.txt": "grüner".encode("latin-1"),
        "3.jfif": png(3),
        "3.jfif.txt": b"c",
        "3.txt": b"d",
        "4.png": png(4),
        "4.json": '{"caption": ["e", "f"]}'.encode("utf-8-sig"),
    }
    found, complaints = names_of([shard(tmp_path / "a.tar", files)])
    assert found == {"a.tar/1.png": ("ein grüner Apfel", "zwei"), "a.tar/3.jfif": ("c",), "a.tar/4.png": ("e", "f")}
    assert complaints == ["a.tar/2.png: a.tar/2.txt:1: is not UTF-8 text"]


def test_shards_are_named_by_folder_file_or_pattern(tmp_path: Path) -> None:
    paths = [shard(tmp_path / f"s-{number}.tar", {}) for number in (0, 1)]
    assert find_shards(str(tmp_path)) == paths
    assert find_shards(str(paths[0])) == paths[:1]
    assert find_shards(str(tmp_path / "s-{0..1}.tar")) == paths
    (tmp_path / "a.png").write_bytes(png(0))
    assert find_shards(str(tmp_path)) == []


@pytest.mark.parametrize("pattern", ["s-{08..11}.tar", "{a,b{0..2}}/s-{1,x}.tar", "s.tar"])
def test_patterns_mean_what_they_mean_to_webdataset(webdataset: ModuleType, pattern: str) -> None:
    from webdataset.shardlists import expand_urls

    assert [str(path) for path in find_shards(pattern)] == expand_urls(pattern)


def test_a_pattern_whose_braces_do_not_close_is_named() -> None:
    with pytest.raises(InputError, match="the braces do not close"):
        find_shards("s-{0..3.tar")


def test_no_shard_and_an_empty_one_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no\.tar: there is no such shard"):
        read_shards([tmp_path / "no.tar"])
    with pytest.raises(InputError, match="no captioned pictures"):
        read_shards([shard(tmp_path / "a.tar", {"1.png": png(1)})])


def test_training_from_shards_skips_the_broken_and_resumes_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMOOTHTOOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(train, "open_session", lambda job, track, pool=None: tiny_model(tmp_path / "tokenizer"))
    files = {f"{n}.{suffix}": content for n in range(5) for suffix, content in (("png", png(n)), ("txt", b"a cat"))}
    shard(tmp_path / "a.tar", files | {"5.png": b"no picture", "5.txt": b"a dog"})

    def run(folder: str, **settings: Any) -> Report:
        job = {
            "data": str(tmp_path / "a.tar"),
            "max_steps": 4,
            "batch_size": 2,
            "rank": 2,
            "device": "cpu",
            "seed": 3,
            "output": tmp_path / folder,
            "learning_rate": 1e-2,
        }
        return train.run(TrainJob(**{**job, **settings}), silent)

    whole = run("whole")
    assert whole.figures["skipped"] == 1
    assert "a.tar/5.png" in whole.notes[0]
    run("parts", max_steps=2)
    resumed = run("parts", resume=True)
    assert [row["base_loss"] for row in log(whole)] == [row["base_loss"] for row in log(resumed)]
    assert same(weights(whole), weights(resumed))
