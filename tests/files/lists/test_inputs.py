"""Which pictures are meant, what they are called, and what is said about them."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from smoothtool.errors import UsageError
from smoothtool.files.lists.inputs import Picture, find_pictures
from smoothtool.recipe.captions import Captions
from smoothtool.recipe.plan import plan_flags
from smoothtool.recipe.reading import plan_recipe
from smoothtool.yaml12 import read_yaml


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("a/x.png", "b/x.png", "b/x.jpg", "b/deep/f10.png", "b/deep/f2.png", "b/.hidden.png", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def places(*texts: str) -> list[str]:
    return [str(picture.place) for picture in find_pictures(texts).pictures]


def test_a_folder_means_its_pictures_at_any_depth_in_natural_order(tree: Path) -> None:
    assert places("b") == ["deep/f2.png", "deep/f10.png", "x.jpg", "x.png"]


def test_several_inputs_keep_their_sub_folders(tree: Path) -> None:
    assert places("a/x.png", "b/x.png") == ["a/x.png", "b/x.png"]
    assert places("a", "b/deep") == ["a/x.png", "b/deep/f2.png", "b/deep/f10.png"]


def test_a_glob_starts_at_its_fixed_part_and_takes_no_other_files(tree: Path) -> None:
    assert places("b/*") == ["x.jpg", "x.png"]
    assert places("**/x.png") == ["a/x.png", "b/x.png"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tree: Path) -> None:
    (tree / "x[1].png").touch()
    found = find_pictures(["x[1].png"])
    assert ([picture.text for picture in found.pictures], found.several) == (["x[1].png"], False)


def test_results_and_looping_links_are_not_walked_into(tree: Path) -> None:
    (tree / "a" / "loop").symlink_to(tree / "a")
    (tree / "a" / "out").mkdir()
    (tree / "a" / "out" / "batch.json").touch()
    (tree / "a" / "out" / "made.png").touch()
    assert places("a") == ["x.png"]
    assert places("a/**/*.png") == ["out/made.png", "x.png"]  # a glob that names the results means them


def test_folders_and_globs_take_every_format_that_is_read_and_name_the_others(tree: Path) -> None:
    (tree / "c").mkdir()
    suffixes = [".jfif", ".jpe", ".jp2", ".TGA", ".ppm", ".apng", ".ico", ".JPG"]
    for suffix in [*suffixes, ".heic", ".jxl", ".NEF", ".txt", ".json"]:
        (tree / "c" / f"x{suffix}").touch()
    for text in ("c", "c/*"):
        found = find_pictures([text])
        assert sorted(str(picture.place) for picture in found.pictures) == sorted(f"x{suffix}" for suffix in suffixes)
        (note,) = found.notes
        assert all(name in note for name in ("3 pictures", "x.heic", "x.jxl", "x.NEF"))
        assert "x.txt" not in note


def test_a_folder_of_unread_formats_says_why_it_is_empty(tree: Path) -> None:
    (tree / "c").mkdir()
    (tree / "c" / "x.heic").touch()
    with pytest.raises(ValueError, match=r"c: there is no picture; left out: .*x\.heic"):
        find_pictures(["c"])


def test_a_plan_says_what_is_left_out_and_is_the_same_plan(tree: Path) -> None:
    (tree / "b" / "x.heic").touch()
    recipe = plan_recipe(read_yaml("jobs: [{command: invert, image: b}]", "r.yaml"))
    assert "x.heic" in recipe.notes[0]
    assert "x.heic" in plan_flags("invert", {"image": ["b"]}).notes[0]


def test_links_to_pictures_are_pictures_in_folders_and_in_globs(tree: Path) -> None:
    (tree / "store").mkdir()
    (tree / "store" / "s.png").touch()
    (tree / "a" / "link.png").symlink_to(tree / "store" / "s.png")
    (tree / "a" / "twice.png").symlink_to(tree / "a" / "x.png")
    assert places("a") == places("a/*") == ["link.png", "twice.png", "x.png"]
    (tree / "d").mkdir()
    (tree / "d" / "sub").symlink_to(tree / "store")
    assert places("d") == ["sub/s.png"]


@pytest.mark.parametrize("text", ["~nosuchuser/x", "n" * 300, "loop", "a\0b", "n" * 300 + "*", "loop/*"])
def test_names_that_no_file_can_have_are_plain_names_or_empty_globs(tree: Path, text: str) -> None:
    (tree / "loop").symlink_to(tree / "loop")
    if "*" in text:
        with pytest.raises(ValueError, match="there is no picture"):
            find_pictures([text])
    else:
        assert find_pictures([text]).pictures[0].text == text


def test_a_dash_reads_names_from_stdin(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for text in (b"a/x.png\nb/x.png\n", b"a/x.png\0b/x.png\0"):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text)))
        assert places("-") == ["a/x.png", "b/x.png"]


def test_a_name_on_stdin_ends_at_the_end_of_its_line_only(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a/x\u2028y.png\r\na/\x0b.png\n".encode()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text)))
    assert [picture.text for picture in find_pictures(["-"]).pictures] == ["a/x\u2028y.png", "a/\x0b.png"]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig", "utf-32"])
def test_a_list_on_stdin_may_say_its_encoding(tree: Path, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    content = "a/x.png\r\nb/ü.png\r\n".encode(encoding)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert [picture.text for picture in find_pictures(["-"]).pictures] == ["a/x.png", "b/ü.png"]


def test_a_list_without_end_on_stdin_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smoothtool.files.lists.inputs.LARGEST_LIST_BYTES", 10)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"x" * 11)))
    with pytest.raises(ValueError, match="too long"):
        find_pictures(["-"])


def test_samples_are_found_by_pattern() -> None:
    assert places("samples:*") == places("samples:?*")
    assert places("samples:p*") == ["panda.png", "pear.png"]


@pytest.mark.parametrize("text", ["empty", "nothing/*.png", "samples:zzz*"])
def test_a_folder_or_glob_without_pictures_is_a_mistake(tree: Path, text: str) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(ValueError, match="there is no picture"):
        find_pictures([text])


def test_sidecars_and_metadata_say_what_pictures_show(tree: Path) -> None:
    (tree / "a" / "x.txt").write_text("a fox\n")
    (tree / "b" / "metadata.csv").write_text("file_name,text\nx.png,a cat\n")
    source = Captions("sidecars", "r.yaml:1:1")
    told = [source.about(Picture(name, Path(name))) for name in ("a/x.png", "b/x.png", "b/x.jpg")]
    assert [[options.get("src", ("",))[0] for options in rows] for rows in told] == [["a fox"], ["a cat"], [""]]


def test_metadata_that_cannot_be_read_is_a_mistake_of_the_recipe(tree: Path) -> None:
    (tree / "b" / "metadata.csv").write_text("name,text\nx.png,a cat\n")
    recipe = "jobs:\n  - {command: invert, image: b, captions: sidecars}\n"
    with pytest.raises(UsageError, match=r"r\.yaml:2:33 .*file_name is missing"):
        plan_recipe(read_yaml(recipe, "r.yaml"))


def test_a_table_gives_options_one_item_per_row(tree: Path) -> None:
    (tree / "t.jsonl").write_text('{"file_name": "a/x.png", "trg": "1"}\n{"file_name": "a/x.png", "trg": "2"}\n')
    source = Captions("t.jsonl", "here")
    assert source.listed() == ["a/x.png"]
    assert [row["trg"] for row in source.about(Picture("a/x.png", Path("x.png")))] == [
        ("1", "t.jsonl:1 trg"),
        ("2", "t.jsonl:2 trg"),
    ]
