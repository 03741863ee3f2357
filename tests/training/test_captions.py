"""Training data from folders: what is found, and what is named and left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from smoothtool.errors import InputError
from smoothtool.stickers.world.captioned import sticker_scenes
from smoothtool.stickers.world.icons import CONCEPTS, STYLES
from smoothtool.training.captions import read_captioned_folder


def picture(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(folder / name)


def names_of(folder: Path) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    found, complaints = read_captioned_folder(folder)
    return {one.name: one.captions for one in found}, complaints


def test_metadata_jsonl_gives_one_or_several_captions(tmp_path: Path) -> None:
    picture(tmp_path, "a.png")
    picture(tmp_path, "sub/b.png")
    rows = [{"file_name": "a.png", "text": " a  cat "}, {"file_name": "sub/b.png", "caption": ["a dog", "dog"]}]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert names_of(tmp_path) == ({"a.png": ("a cat",), "sub/b.png": ("a dog", "dog")}, [])


def test_metadata_csv_is_read(tmp_path: Path) -> None:
    picture(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text('file_name,text\na.png,"a cat, red"\n')
    assert names_of(tmp_path)[0] == {"a.png": ("a cat, red",)}


def test_sidecars_are_read_in_sub_folders(tmp_path: Path) -> None:
    picture(tmp_path, "x/a.png")
    (tmp_path / "x" / "a.txt").write_text("a cat\na kitten\n")
    assert names_of(tmp_path) == ({"x/a.png": ("a cat", "a kitten")}, [])


def test_captions_without_pictures_and_the_reverse_are_named(tmp_path: Path) -> None:
    for name in ("a.png", "alone.png"):
        picture(tmp_path, name)
    (tmp_path / "a.caption").write_text("a cat")
    (tmp_path / "lost.txt").write_text("nobody")
    found, complaints = names_of(tmp_path)
    assert list(found) == ["a.png"]
    assert [line.split(":")[0] for line in complaints] == ["lost.txt", "alone.png"]


def test_pictures_that_the_metadata_leaves_out_are_named(tmp_path: Path) -> None:
    for name in ("a.png", "sub/b.png"):
        picture(tmp_path, name)
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png,a cat\n")
    assert names_of(tmp_path) == ({"a.png": ("a cat",)}, ["sub/b.png: there is no caption for this picture"])


def test_a_caption_of_two_lines_in_a_csv_is_one_caption(tmp_path: Path) -> None:
    picture(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text('file_name,text\na.png,"a cat,\non red"\n')
    assert names_of(tmp_path)[0] == {"a.png": ("a cat, on red",)}


def test_a_csv_that_cannot_be_parsed_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("file_name,text\na.png," + "x" * 200_000 + "\n")
    with pytest.raises(InputError, match=r"metadata\.csv:2"):
        names_of(tmp_path)


def test_bad_rows_missing_files_and_ways_out_of_the_folder_are_named(tmp_path: Path) -> None:
    data = tmp_path / "data"
    picture(tmp_path, "secret.png")
    picture(data, "a.png")
    rows = [
        '{"file_name": "a.png", "text": "a"}',
        "not json",
        '{"file_name": "a.png"}',
        '{"file_name": "../secret.png", "text": "s"}',
        '{"file_name": "no.png", "text": "n"}',
    ]
    (data / "metadata.jsonl").write_text("\n".join(rows))
    found, complaints = names_of(data)
    assert list(found) == ["a.png"]
    assert len(complaints) == 4
    assert "metadata.jsonl:2" in complaints[0]


@pytest.mark.parametrize("make", [lambda folder: None, lambda folder: folder.mkdir()])
def test_no_data_is_an_input_error(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "none")
    with pytest.raises(InputError, match="none"):
        read_captioned_folder(tmp_path / "none")


def test_sticker_scenes_are_the_same_every_time(tmp_path: Path) -> None:
    for style in STYLES:
        for code in CONCEPTS.values():
            picture(tmp_path, f"{style}/{code}.png")
    scenes, again = (sticker_scenes(3, tmp_path) for _ in range(2))
    assert [scene.captions for scene in scenes] == [scene.captions for scene in again]
    assert scenes[0].load().size == (64, 64)
    assert scenes[0].load().tobytes() == again[0].load().tobytes()


def test_names_that_no_file_can_have_are_complaints(tmp_path: Path) -> None:
    picture(tmp_path, "a.png")
    rows = [{"file_name": name, "text": "a cat"} for name in ("a.png", "b\u0000.png", "c" * 300 + ".png")]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found, complaints = read_captioned_folder(tmp_path)
    assert [one.name for one in found] == ["a.png"]
    assert len(complaints) == 2


def test_a_caption_may_hold_a_line_separator(tmp_path: Path) -> None:
    picture(tmp_path, "a.png")
    row = json.dumps({"file_name": "a.png", "text": "a cat\u2028on a mat"}, ensure_ascii=False)
    (tmp_path / "metadata.jsonl").write_text(row + "\n", encoding="utf-8")
    found, complaints = read_captioned_folder(tmp_path)
    assert (len(found), complaints) == (1, [])


def test_linked_pictures_texts_and_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    data, store = tmp_path / "data", tmp_path / "store"
    picture(store, "a.png")
    picture(store, "deep/b.png")
    (store / "a.txt").write_text("an apple")
    (store / "deep" / "b.txt").write_text("a bee")
    data.mkdir()
    for name, target in (
        ("a.png", store / "a.png"),
        ("a.txt", store / "a.txt"),
        ("sub", store / "deep"),
        ("up", data),
        ("dead.png", store / "nothing.png"),
    ):
        (data / name).symlink_to(target)
    found, complaints = names_of(data)
    assert found == {"a.png": ("an apple",), "sub/b.png": ("a bee",)}
    assert complaints == ["dead.png: this link leads nowhere"]


def test_a_table_may_name_links_and_files_of_any_suffix(tmp_path: Path) -> None:
    data = tmp_path / "data"
    picture(tmp_path, "store/a.png")
    data.mkdir()
    (data / "photo").symlink_to(tmp_path / "store" / "a.png")
    (data / "metadata.csv").write_text("file_name,text\nphoto,a cat\n")
    assert names_of(data) == ({"photo": ("a cat",)}, [])


def test_every_format_that_is_read_is_taken_and_the_others_are_named(tmp_path: Path) -> None:
    for name in ("a.jfif", "b.TGA", "c.heic", "d.jxl"):
        (tmp_path / name).touch()
        (tmp_path / name).with_suffix(".txt").write_text("a cat")
    found, complaints = names_of(tmp_path)
    assert list(found) == ["a.jfif", "b.TGA"]
    assert [line for line in complaints if "format" in line] == [
        "c.heic: pictures of this format are not read",
        "d.jxl: pictures of this format are not read",
    ]


@pytest.mark.parametrize("name", ["n" * 300, "loop", "~nosuchuser/x"])
def test_a_folder_that_cannot_be_is_an_input_error(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("loop").symlink_to("loop")
    with pytest.raises(InputError, match="there is no such folder"):
        read_captioned_folder(Path(name))
