"""What a picture shows: which text wins, and how it is read. Editing and training ask the same reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from smoothtool.errors import InputError
from smoothtool.files.lists.captions import PictureCaptions, split_lines
from smoothtool.files.lists.inputs import Picture
from smoothtool.recipe.captions import Captions
from smoothtool.training.captions import read_captioned_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "x.png").touch()
    return tmp_path


def both(folder: Path) -> tuple[str, ...]:
    """The captions that training takes, after checking that editing takes the first of them."""
    pictures, _ = read_captioned_folder(folder)
    (captions,) = [picture.captions for picture in pictures if picture.name == "x.png"]
    assert Captions("sidecars", "").sidecar(Picture(str(folder / "x.png"), Path("x.png"))) == captions[0]
    return captions


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_each_line_is_a_caption_in_every_encoding_with_a_mark(folder: Path, encoding: str, end: str) -> None:
    (folder / "x.txt").write_bytes(f"{end}ein grüner  Apfel{end}{end}zwei\u2028Äpfel\x0c{end}".encode(encoding))
    assert both(folder) == ("ein grüner Apfel", "zwei Äpfel")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le", "utf-16-be", "cp1251", "gbk"])
def test_other_encodings_are_named_and_never_guessed(folder: Path, encoding: str) -> None:
    text = {"cp1251": "яблоко", "gbk": "苹果"}.get(encoding, "ein grüner Apfel")
    (folder / "x.txt").write_bytes(text.encode(encoding))
    (folder / "y.png").touch()
    (folder / "y.txt").write_text("a pear")
    pictures, complaints = read_captioned_folder(folder)
    assert [picture.name for picture in pictures] == ["y.png"]
    assert complaints[0].startswith(f"x.png: {folder / 'x.txt'}:1: ")
    with pytest.raises(InputError, match=r"x\.txt:1"):
        Captions("sidecars", "").sidecar(Picture(str(folder / "x.png"), Path("x.png")))


@pytest.mark.parametrize("name", ["x.txt", "x.TXT", "x.Txt", "x.png.txt", "x.png.TXT", "x.caption", "x.png.caption"])
def test_texts_beside_a_picture_are_found_under_every_name_that_tools_give_them(folder: Path, name: str) -> None:
    (folder / name).write_text("a fox")
    assert both(folder) == ("a fox",)


def test_the_more_particular_text_wins_and_an_empty_one_says_nothing(folder: Path) -> None:
    (folder / "metadata.csv").write_text("file_name,text\nx.png,csv\n")
    for name, text in (
        ("metadata.jsonl", '{"file_name": "x.png", "text": "jsonl"}'),
        ("x.caption", "caption"),
        ("x.TXT", "TXT"),
        ("x.txt", "txt"),
        ("x.png.txt", "png.txt"),
    ):
        (folder / name).write_text(text)
        assert both(folder) == ("jsonl" if "jsonl" in text else text,)
    for name, rest in (("x.png.txt", "txt"), ("x.txt", "TXT"), ("x.TXT", "caption"), ("x.caption", "jsonl")):
        (folder / name).write_text(" \n")
        assert both(folder) == (rest,)


def test_two_pictures_of_one_stem_are_told_apart_by_the_whole_name(folder: Path) -> None:
    (folder / "x.jpg").touch()
    (folder / "x.jpg.txt").write_text("a photo")
    (folder / "x.txt").write_text("both")
    pictures, _ = read_captioned_folder(folder)
    assert {picture.name: picture.captions for picture in pictures} == {"x.jpg": ("a photo",), "x.png": ("both",)}


def test_the_nearest_table_speaks_and_rows_about_one_picture_add_up(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    for name in ("sub/a.png", "sub/b.png"):
        (tmp_path / name).touch()
    rows = ["sub/a.png,one", "./sub/a.png,two", "sub/a.png,one", "sub\\b.png,far"]
    (tmp_path / "metadata.csv").write_text("\n".join(["file_name,text", *rows]))
    pictures, _ = read_captioned_folder(tmp_path)
    assert [picture.captions for picture in pictures] == [("one", "two"), ("far",)]
    (tmp_path / "sub" / "metadata.jsonl").write_text('{"file_name": "b.png", "text": "near"}')
    pictures, _ = read_captioned_folder(tmp_path)
    assert [picture.captions for picture in pictures] == [("one", "two"), ("near",)]
    source = Captions("sidecars", "")
    assert source.sidecar(Picture(str(tmp_path / "sub" / "a.png"), Path("sub/a.png"))) == "one"
    assert source.sidecar(Picture(str(tmp_path / "sub" / "a.png"), Path("a.png"))) is None  # the table is outside


def test_a_folder_and_its_table_are_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "metadata.csv").write_text("file_name,text\nx.png,a cat\n")
    read: list[Path] = []
    reader = PictureCaptions()
    monkeypatch.setattr("smoothtool.files.lists.captions.read_table", lambda path, _: read.append(path) or [])
    for name in ("x.png", "y.png"):
        reader.of(folder / name)
    assert len(read) == 1


def test_a_text_too_long_to_be_a_caption_is_named(folder: Path) -> None:
    for text in ("x" * 10_001, "x\n" * 600_000):
        (folder / "x.txt").write_text(text)
        with pytest.raises(InputError, match=r"x\.txt"):
            PictureCaptions().of(folder / "x.png")


def test_lines_end_where_lines_end() -> None:
    assert split_lines("a\u2028b\r\nc\x85d\re\x0b\n\n f \n") == ["a b", "c d", "e", "f"]
