from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from smoothtool.errors import InputError
from smoothtool.files.lists.published_sets import decode_mask, plain_prompt, read_morph_bench, read_pie_bench

ROW: dict[str, Any] = {
    "image_path": "1_change_object_80/000000000002.jpg",
    "original_prompt": "a [cat] on a  mat",
    "editing_prompt": "a [dog] on a mat",
    "editing_instruction": "turn the cat into a dog",
    "editing_type_id": "1",
    "blended_word": "cat dog",
    "mask": [512 * 10 + 20, 5, 512 * 512 - 3, 100],
}


def pie_folder(root: Path, **changes: Any) -> Path:
    picture = root / "annotation_images" / ROW["image_path"]
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (512, 512)).save(picture)
    rows = {"000000000002": ROW | changes}
    (root / "mapping_file.json").write_text(json.dumps(rows))
    return root


def test_an_edit_of_pie_bench_is_read_without_its_brackets(tmp_path: Path) -> None:
    (item,) = read_pie_bench(pie_folder(tmp_path))
    assert (item.source, item.target, item.kind) == ("a cat on a mat", "a dog on a mat", "1")
    assert item.blend == ("cat", "dog")
    assert item.picture.is_file()


def test_a_mask_has_its_runs_and_its_border_and_nothing_else(tmp_path: Path) -> None:
    (item,) = read_pie_bench(pie_folder(tmp_path))
    inner = item.mask[1:-1, 1:-1]
    assert np.flatnonzero(inner).tolist() == [510 * 9 + column for column in range(19, 24)]
    assert item.mask.sum() - inner.sum() == 4 * 511


def test_no_blended_word_means_no_local_blend(tmp_path: Path) -> None:
    assert read_pie_bench(pie_folder(tmp_path, blended_word=""))[0].blend is None


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"mask": [1, 2, 3]}, "pairs of start and length"),
        ({"mask": [-1, 2]}, "pairs of start and length"),
        ({"mask": "1 2"}, "mask is 1 2, not a list of whole numbers"),
        ({"image_path": "../../x.jpg"}, "is not in the benchmark's folder"),
        ({"image_path": "1/none.jpg"}, "is missing"),
        ({"blended_word": "cat"}, "a word of each prompt"),
        ({"editing_prompt": None}, "editing_prompt is missing"),
    ],
)
def test_a_damaged_item_is_named_with_its_place(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint) as raised:
        read_pie_bench(pie_folder(tmp_path, **changes))
    assert "000000000002" in str(raised.value)


def test_a_folder_without_the_list_says_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"mapping_file\.json"):
        read_pie_bench(tmp_path)


def test_a_run_beyond_the_end_is_cut() -> None:
    assert decode_mask([10, 99], "x", side_px=4)[2, 2]


def test_brackets_and_double_spaces_go() -> None:
    assert plain_prompt("a  [red]  house ") == "a red house"


def test_pairs_of_morph_bench_are_found_by_kind_and_name(tmp_path: Path) -> None:
    for name in ("Metamorphosis/b", "Metamorphosis/a", "Animation/c"):
        for end in "01":
            path = tmp_path / f"{name}_{end}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (8, 8)).save(path)
    pairs = read_morph_bench(tmp_path)
    assert [pair.key for pair in pairs] == ["Metamorphosis/a", "Metamorphosis/b", "Animation/c"]
    assert [path.name for path in pairs[0].pictures] == ["a_0.png", "a_1.png"]


def test_half_a_pair_is_named(tmp_path: Path) -> None:
    (tmp_path / "Animation").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "Animation" / "x_0.png")
    with pytest.raises(InputError, match=r"x_0\.png: the other picture of the pair x is missing"):
        read_morph_bench(tmp_path)


def test_a_folder_without_pairs_says_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pairs in MorphBench's layout"):
        read_morph_bench(tmp_path)
