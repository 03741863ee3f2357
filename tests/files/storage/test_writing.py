"""Files are whole or as they were, with the usual rights, and a disk that fails is one sentence."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from storage_toys import kill_at_every_moment, limited_files, names

from smoothtool.errors import StorageError, disk_is_full
from smoothtool.files.storage.leftovers import sweep_leftovers
from smoothtool.files.storage.writing import (
    append_line,
    atomic_path,
    plain,
    write_bytes_atomic,
    write_json_atomic,
    write_picture,
    write_text_atomic,
    write_yaml,
)


def test_an_interrupted_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("old")

    def interrupted() -> None:
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_undecodable_bytes_of_a_command_line_can_be_written(tmp_path: Path) -> None:
    write_text_atomic(tmp_path / "a.txt", "fox \udcff")
    assert (tmp_path / "a.txt").read_text() == "fox ?"


def test_json_is_readable_by_every_parser(tmp_path: Path) -> None:
    data = {"a": (math.nan, math.inf, 1.5), "b": Path("x/y"), "c": np.float32(0.5), "d": np.int64(3), 4: True, "e": "é"}
    write_json_atomic(tmp_path / "a.json", data)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    read = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert read == {"a": [None, None, 1.5], "b": "x/y", "c": 0.5, "d": 3, "4": True, "e": "é"}


def test_an_object_is_no_plain_data() -> None:
    with pytest.raises(TypeError, match="object"):
        plain({"a": object()})


TEXTS = [
    "1e-4",
    "0o10",
    "010",
    "no",
    "off",
    "null",
    "~",
    "1_000",
    ".5",
    "a: b",
    "# fox",
    "- x",
    "12:30",
    "é 狐",
    "",
    "a\nb",
]


def test_yaml_keeps_order_and_every_text(tmp_path: Path) -> None:
    write_yaml(tmp_path / "a.yaml", {"z": TEXTS, "a": 1e-5, "n": None, "path": Path("/x")})
    read = yaml.safe_load((tmp_path / "a.yaml").read_text())
    assert list(read) == ["z", "a", "n", "path"]
    assert read == {"z": TEXTS, "a": 1e-5, "n": None, "path": "/x"}


def test_yaml_1_2_reads_the_same_texts(tmp_path: Path) -> None:
    from smoothtool.yaml12 import load_yaml

    write_yaml(tmp_path / "a.yaml", {"z": TEXTS})
    assert load_yaml(tmp_path / "a.yaml").value == {"z": TEXTS}


def test_a_file_has_the_rights_that_the_person_gives_to_new_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes_atomic(tmp_path / "a.bin", b"a")
    finally:
        os.umask(before)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".gif"])
def test_a_picture_is_whole_or_as_it_was(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8))
    write_picture(path, Image.new("RGB", (8, 8), "orange"))
    old = path.read_bytes()
    with limited_files(5_000), pytest.raises(StorageError, match=f"a{suffix}: cannot be written") as caught:
        write_picture(path, noise)
    assert disk_is_full(caught.value)
    assert path.read_bytes() == old
    assert names(tmp_path) == [path.name]


def test_a_kill_at_any_moment_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json_atomic(path, ["old"])

    def check() -> None:
        sweep_leftovers(tmp_path)
        assert names(tmp_path) == ["a.json"]
        assert json.loads(path.read_text()) in (["old"], ["new"])

    assert kill_at_every_moment(lambda: write_json_atomic(path, ["new"]), check) > 3
    assert json.loads(path.read_text()) == ["new"]


def test_a_folder_that_is_gone_is_told_with_the_name_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"gone.a\.txt: cannot be written"):
        write_text_atomic(tmp_path / "gone" / "a.txt", "a")


def test_a_line_is_added_after_one_that_was_cut_short(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("one\nhal")
    append_line(tmp_path / "log", "two")
    assert (tmp_path / "log").read_text() == "one\nhal\ntwo\n"
    with limited_files(12), pytest.raises(StorageError, match="log: cannot be written"):
        append_line(tmp_path / "log", "a line that does not fit")
    append_line(tmp_path / "log", "three")
    assert (tmp_path / "log").read_text().splitlines()[-1] == "three"
