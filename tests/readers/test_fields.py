"""JSON becomes data of known types, or an error that names file, key and value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from smoothtool.errors import InputError, ModelError
from smoothtool.readers.fields import Fields, as_fields, parse_json, read_fields


def fields(**values: Any) -> Fields:
    return as_fields(values, "a.json")


def test_a_json_file_is_read_in_any_encoding_with_a_mark(tmp_path: Path) -> None:
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        (tmp_path / "a.json").write_bytes(json.dumps({"a": "ü"}, ensure_ascii=False).encode(encoding))
        assert read_fields(tmp_path / "a.json").text("a") == "ü"


@pytest.mark.parametrize(
    "text", ["", "{", '{"a": }', "nonsense", "[" * 100_000, '{"a":' * 50 + "1" + "}" * 50, "9" * 10_000, "\\"]
)
def test_what_is_no_json_is_refused_in_one_sentence(text: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_json(text, "a.json")
    assert refused.value.what.startswith("a.json")
    assert "\n" not in refused.value.what


def test_the_line_of_a_mistake_is_named() -> None:
    with pytest.raises(InputError, match=r"a\.json:3: is not readable JSON"):
        parse_json('{\n"a": 1,\n]', "a.json")


def test_what_is_no_object_is_refused() -> None:
    for value in (None, [], "text", 3, True):
        with pytest.raises(ModelError, match="not a JSON object"):
            as_fields(value, "a.json", ModelError)


@pytest.mark.parametrize(
    ("getter", "good", "bad"),
    [
        ("text", "fox", [3, [], {}, True, "\ud800"]),
        ("truth", True, [1, "true", []]),
        ("number", 0.5, ["0.5", True, float("nan"), float("inf"), 10**400, []]),
        ("whole", 3, [3.0, "3", True, -1, 10**12]),
        ("texts", ["a"], ["a", [1], {"a": 1}]),
        ("numbers", [1, 0.5], [1, ["1"], [True], [float("nan")]]),
        ("wholes", [1], [1, [1.0], ["1"]]),
        ("items", [1], [1, "ab", {}]),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_key(getter: str, good: Any, bad: list[Any]) -> None:
    assert getattr(fields(k=good), getter)("k") == good
    for value in [*bad, None]:
        with pytest.raises(InputError, match=r"^a\.json: k is "):
            getattr(fields(k=value), getter)("k")


def test_a_missing_or_null_key_takes_the_default() -> None:
    assert fields().number("k", 2.0) == 2.0
    assert fields(k=None).number("k", 2.0) == 2.0


def test_a_text_that_looks_like_a_number_is_called_a_text() -> None:
    with pytest.raises(InputError, match=r"k is the text 0\.012, not a number"):
        fields(k="0.012").number("k")


def test_a_number_out_of_its_range_is_refused() -> None:
    with pytest.raises(InputError, match="k is 2, not a number from 0 to 1"):
        fields(k=2).number("k", low=0, high=1)


def test_an_object_inside_is_named_by_its_key() -> None:
    with pytest.raises(InputError, match=r"a\.json: inner: k is missing"):
        fields(inner={}).fields("inner").text("k")


def test_an_error_quotes_long_values_in_short() -> None:
    with pytest.raises(InputError) as refused:
        fields(k="x\n" * 10_000).number("k")
    assert len(refused.value.what) < 120
    assert "\n" not in refused.value.what
