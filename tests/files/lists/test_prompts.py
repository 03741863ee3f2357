"""Prompt lists from text and from COCO captions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smoothtool.errors import InputError
from smoothtool.files.lists.prompts import prompts_of, read_prompts


def test_a_text_file_has_one_prompt_a_line_and_empty_lines_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa cat\r\n\r\n  a   dog \n".encode())
    assert read_prompts(path) == ["a cat", "a dog"]


def test_coco_gives_the_first_caption_of_each_picture(tmp_path: Path) -> None:
    captions = [(7, "A bicycle.\n"), (3, "A room."), (7, "Another bicycle.")]
    path = tmp_path / "captions.json"
    path.write_text(json.dumps({"annotations": [{"image_id": i, "caption": c} for i, c in captions]}))
    assert read_prompts(path) == ["A bicycle.", "A room."]


def test_pictures_get_the_captions_of_their_names(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    images = [{"id": 7, "file_name": "b.jpg"}, {"id": 3, "file_name": "a.jpg"}]
    rows = [{"image_id": 7, "caption": "A bicycle."}, {"image_id": 3, "caption": "A room."}]
    path.write_text(json.dumps({"images": images, "annotations": rows}))
    assert prompts_of(path, ["a.jpg", "b.jpg"]) == ["A room.", "A bicycle."]
    assert prompts_of(path, ["1.png", "2.png"]) == ["A bicycle.", "A room."]  # names it does not know: line by line
    with pytest.raises(InputError, match=r"no caption for c\.jpg"):
        prompts_of(path, ["a.jpg", "c.jpg"])
    with pytest.raises(InputError, match="3 pictures have 2 prompts"):
        prompts_of(path, ["1.png", "2.png", "3.png"])


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"annotations": [{"caption": "x"}]}', '{"annotations": 3}', "[" * 99_999]
)
def test_a_broken_annotation_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "captions.json"
    path.write_text(content)
    with pytest.raises(InputError, match=r"captions\.json.*COCO"):
        read_prompts(path)


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe\x00"])
def test_files_without_prompts_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"prompts\.txt"):
        read_prompts(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_prompts(tmp_path / "nowhere.txt")
