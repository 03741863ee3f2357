"""Points and masks: what is read, and what is refused in one sentence."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from smoothtool.errors import InputError, UsageError
from smoothtool.files.lists.points import check_points, load_mask, points_from_numbers, read_points, write_points

SIZE = (64, 48)


def test_points_written_are_points_read(tmp_path: Path) -> None:
    points = points_from_numbers([[20, 32, 40.5, 32], [1, 2, 3, 4]])
    write_points(tmp_path / "points.json", points, "a fox")
    item = read_points(tmp_path / "points.json")
    assert (item.points, item.prompt, item.mask) == (points, "a fox", None)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_dragbench_files_of_every_pickle_protocol_are_read(tmp_path: Path, protocol: int) -> None:
    mask = np.zeros((48, 64), np.uint8)
    mask[10:20, 5:9] = 1
    meta = {"prompt": "a fox", "points": [[20, 32], (40, np.int64(32)), [1, 2], [3, 4]], "mask": mask}
    (tmp_path / "meta_data.pkl").write_bytes(pickle.dumps(meta, protocol))
    item = read_points(tmp_path / "meta_data.pkl")
    assert item.points == points_from_numbers([[20, 32, 40, 32], [1, 2, 3, 4]])
    assert item.mask is not None
    assert np.array_equal(item.mask, mask > 0)


class Mischief:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


def test_code_in_a_pickle_is_refused_and_never_run(tmp_path: Path) -> None:
    target = tmp_path / "made"
    (tmp_path / "meta_data.pkl").write_bytes(pickle.dumps({"points": Mischief(target)}))
    with pytest.raises(InputError, match="has no place in it"):
        read_points(tmp_path / "meta_data.pkl")
    assert not target.exists()


def assert_one_sentence(path: Path) -> None:
    with pytest.raises(InputError) as refused:
        read_points(path)
    assert refused.value.what.startswith(str(path))
    assert "\n" not in refused.value.what
    assert "handle" in refused.value.hint


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04",
        b"not a pickle",
        pickle.dumps([1, 2]),
        pickle.dumps({"points": [[1, 2]], "mask": 1, "prompt": ""}),
        pickle.dumps({"points": [], "prompt": "", "mask": np.array([[object()]])}),
    ],
)
def test_damaged_pickles_are_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "meta_data.pkl").write_bytes(content)
    assert_one_sentence(tmp_path / "meta_data.pkl")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"points": 3}',
        '{"points": [{"handle": [1, 2]}]}',
        '{"points": [{"handle": [1], "target": [2, 3]}]}',
        '{"points": [{"handle": ["1", "2"], "target": [2, 3]}]}',
        '{"points": [], "prompt": 3}',
        "[" * 100_000,
    ],
)
def test_damaged_json_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "points.json").write_text(content)
    assert_one_sentence(tmp_path / "points.json")


def test_the_place_of_a_wrong_value_is_named(tmp_path: Path) -> None:
    (tmp_path / "points.json").write_text('{"points": [{"handle": [1, 2], "target": [3, "4"]}]}')
    with pytest.raises(InputError, match=r"points\[0\]: target is a list, not a pair of numbers"):
        read_points(tmp_path / "points.json")


def test_a_key_given_twice_is_named(tmp_path: Path) -> None:
    (tmp_path / "points.json").write_text('{"points": [{"handle": [1, 2], "handle": [3, 4]}]}')
    with pytest.raises(InputError, match="handle is given twice"):
        read_points(tmp_path / "points.json")


def test_points_in_utf16_are_read_by_their_mark(tmp_path: Path) -> None:
    text = '{"points": [{"handle": [1, 2], "target": [3, 4]}], "prompt": "ü"}'
    (tmp_path / "points.json").write_bytes(text.encode("utf-16"))
    assert read_points(tmp_path / "points.json").prompt == "ü"


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "no points"),
        ([[64, 3, 5, 5]], "64,3 is outside"),
        ([[3, 3, 5, 48]], "5,48 is outside"),
        ([[-1, 3, 5, 5]], "outside"),
        ([[float("nan"), 3, 5, 5]], "not a place"),
        ([[3, 3, float("inf"), 5]], "not a place"),
        ([[3, 3, 3, 3]], "its own target"),
        ([[3, 3, 5, 5], [3, 3, 9, 9]], "same place"),
    ],
)
def test_points_that_cannot_be_meant_are_refused(tmp_path: Path, rows: list[list[int]], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        check_points(points_from_numbers(rows), SIZE)
    with pytest.raises(InputError, match=words):
        check_points(points_from_numbers(rows), SIZE, tmp_path / "points.json")


def test_points_on_the_last_pixel_are_inside() -> None:
    check_points(points_from_numbers([[63, 47, 0, 0]]), SIZE)


def painted(mode: str, size: tuple[int, int] = SIZE) -> Image.Image:
    mask = Image.new(mode, size)
    mask.paste("white", (10, 5, 20, 15))
    return mask


@pytest.mark.parametrize("mode", ["L", "RGB", "1", "RGBA", "LA"])
def test_a_mask_is_true_where_it_is_white(tmp_path: Path, mode: str) -> None:
    painted(mode).save(tmp_path / "mask.png")
    mask = load_mask(tmp_path / "mask.png", SIZE, fit=False)
    assert mask.shape == (48, 64)
    assert mask.sum() == 100
    assert mask[5:15, 10:20].all()


def test_a_mask_with_alpha_is_true_where_something_is_painted(tmp_path: Path) -> None:
    layer = Image.new("RGBA", SIZE, (255, 255, 255, 0))
    layer.paste((0, 0, 0, 255), (10, 5, 20, 15))
    layer.save(tmp_path / "mask.png")
    assert load_mask(tmp_path / "mask.png", SIZE, fit=False)[5:15, 10:20].all()
    assert load_mask(tmp_path / "mask.png", SIZE, fit=False).sum() == 100


def test_a_mask_of_another_size_is_resized_only_when_asked(tmp_path: Path) -> None:
    painted("L", (128, 96)).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match="the mask is 128x96 px, the picture 64x48 px"):
        load_mask(tmp_path / "mask.png", SIZE, fit=False)
    assert load_mask(tmp_path / "mask.png", SIZE, fit=True).sum() == 25


def test_an_empty_mask_is_refused(tmp_path: Path) -> None:
    Image.new("L", SIZE).save(tmp_path / "mask.png")
    with pytest.raises(InputError, match="nothing is painted"):
        load_mask(tmp_path / "mask.png", SIZE, fit=False)


def test_points_json_is_plain_json(tmp_path: Path) -> None:
    write_points(tmp_path / "points.json", points_from_numbers([[20, 32, 40, 32]]))
    assert json.loads((tmp_path / "points.json").read_text()) == {"points": [{"handle": [20, 32], "target": [40, 32]}]}
