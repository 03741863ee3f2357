"""Tables about pictures: every row is read whole, or named with its line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from smoothtool.errors import InputError
from smoothtool.files.lists.metadata import LONGEST_CAPTION, captions_of, read_table


def table(folder: Path, name: str, text: str, encoding: str = "utf-8") -> Path:
    (folder / name).write_bytes(text.encode(encoding))
    return folder / name


def captions(path: Path) -> list[tuple[str, tuple[str, ...]]]:
    return [(row.file_name, row.captions) for row in read_table(path)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_of_every_marked_encoding_and_end_of_line_are_read(tmp_path: Path, encoding: str, end: str) -> None:
    csv = table(tmp_path, "t.csv", f'file_name,text{end}a.png,"ein grüner Apfel, klein"{end}', encoding)
    jsonl = table(tmp_path, "t.jsonl", f'{{"file_name": "a.png", "text": "ein grüner Apfel, klein"}}{end}', encoding)
    assert captions(csv) == captions(jsonl) == [("a.png", ("ein grüner Apfel, klein",))]


@pytest.mark.parametrize(
    ("name", "text"),
    [("t.jsonl", '{"file_name": "x", "text": "a\u2028b"}\n'), ("t.csv", "file_name,text\nx,a\u2028b\n")],
)
def test_a_caption_may_hold_any_letter(tmp_path: Path, name: str, text: str) -> None:
    (row,) = read_table(table(tmp_path, name, text))
    assert (row.cells, row.captions) == ({"text": "a\u2028b"}, ("a b",))


@pytest.mark.parametrize(
    ("line", "cells"), [("a.png,an apple, red, on a plate", 4), ("a.png,an apple,", 0), ('a.png,"an apple, red"', 0)]
)
def test_more_cells_than_columns_are_an_error_with_their_line(tmp_path: Path, line: str, cells: int) -> None:
    path = table(tmp_path, "t.csv", f"file_name,text\nb.png,a pear\n{line}\n")
    if cells:
        with pytest.raises(
            InputError, match=re.escape(f"t.csv:3: has {cells} cells, and the table 2 columns")
        ) as found:
            read_table(path, complaints=[])
        assert "quotes" in found.value.hint
    else:
        assert len(read_table(path)) == 2


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("t.csv", "name,text\nx.png,a\n", "t.csv:2: file_name is missing (is it name)"),
        ("t.csv", "file_name,text\n", "t.csv: has no rows"),
        ("t.csv", "", "t.csv: has no rows"),
        ("t.csv", "file_name,text\na.png," + "x" * 200_000, "t.csv:2: cannot be read as CSV"),
        ("t.jsonl", "[1]\n", "t.jsonl:1: is not a JSON object"),
        ("t.jsonl", "[" * 100_000, "t.jsonl:1: is nested too deeply"),
        ("t.jsonl", '{"file_name": "a",', "t.jsonl:1: is not readable JSON (Expecting"),
        ("t.jsonl", '{"file_name": 5}', "t.jsonl:1: file_name is 5, not a text"),
        ("t.jsonl", '{"file_name": "a", "text": "b", "text": "c"}', "t.jsonl:1: text is given twice"),
        ("t.jsonl", '{"filename": "a", "file_name": ""}', "t.jsonl:1: file_name is missing (is it filename)"),
        ("t.csv", "file_name,text,text\na.png,b,c\n", "t.csv:1: the column text is given twice"),
        ("t.csv", "file_name;text\na.png;b\n", "t.csv:1: its cells are not parted by commas"),
        ("t.csv", "file_name\ttext\na.png\tb\n", "t.csv:1: its cells are not parted by commas"),
        ("t.csv", 'file_name,text\na.png,"a\nb.png,b\nc.png,c\n', "t.csv:4: cannot be read as CSV"),
        ("t.csv", 'file_name,text\na.png,"an apple" red\n', "t.csv:2: cannot be read as CSV"),
        ("t.jsonl", '{"file_name": "a", "text": "\\ud800"}', "t.jsonl:1: a caption holds half a letter"),
        (
            "t.jsonl",
            f'{{"file_name": "a", "text": "{"x" * (LONGEST_CAPTION + 1)}"}}',
            "t.jsonl:1: a caption has 10,001",
        ),
        ("t.txt", "x", "t.txt: is neither sidecars nor a table"),
    ],
)
def test_what_cannot_be_meant_is_named_with_its_line(tmp_path: Path, name: str, text: str, what: str) -> None:
    with pytest.raises(InputError, match=re.escape(what)):
        read_table(table(tmp_path, name, text))


def test_a_table_may_have_spaces_after_commas_empty_lines_and_quotes_inside_a_text(tmp_path: Path) -> None:
    path = table(tmp_path, "t.csv", '\n file_name, text\n\na.png, "an apple, red"\nb.png, a 5" pot\n')
    assert captions(path) == [("a.png", ("an apple, red",)), ("b.png", ('a 5" pot',))]


def test_rows_of_json_end_as_lines_end(tmp_path: Path) -> None:
    path = table(tmp_path, "t.jsonl", '{"file_name": "a"}\r{"file_name": "b"}\r\n{"file_name": "c"}\n')
    assert [(row.file_name, row.place[-1]) for row in read_table(path)] == [("a", "1"), ("b", "2"), ("c", "3")]


def test_bad_rows_are_collected_where_that_is_asked_for(tmp_path: Path) -> None:
    complaints: list[str] = []
    path = table(tmp_path, "t.jsonl", '{"file_name": "a"}\nnot json\n\n{"text": "b"}\n')
    assert [row.file_name for row in read_table(path, complaints)] == ["a"]
    assert [line[:9] for line in complaints] == ["t.jsonl:2", "t.jsonl:4"]


@pytest.mark.parametrize("content", ["ein grüner Apfel".encode("latin-1"), "file_name,text".encode("utf-16-le")])
def test_a_table_that_is_no_text_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"t\.csv:1"):
        read_table(tmp_path / "t.csv", complaints=[])


@pytest.mark.parametrize(
    ("cells", "found"),
    [
        ({"text": " a  cat "}, ("a cat",)),
        ({"caption": ["a dog", "dog", "", "dog"]}, ("a dog", "dog")),
        ({"text": "", "prompt": "a fox"}, ("a fox",)),
        ({"text": 7}, ("7",)),
        ({"text": None, "src": "a hen"}, ("a hen",)),
        ({"text": {"en": "x"}}, ()),
        ({"text": True}, ()),
        ({"text": float("nan"), "src": "a hen"}, ()),
        ({}, ()),
        ([], ()),
    ],
)
def test_captions_are_found_in_their_columns(cells: object, found: tuple[str, ...]) -> None:
    assert captions_of(cells) == found
