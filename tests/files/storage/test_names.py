"""Names of folders are one line, short, visible and allowed on every system, whatever the input was called."""

from __future__ import annotations

import pytest

from smoothtool.files.storage.names import safe_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("fox", "fox"),
        ("a\nb*?", "a-b-"),
        ("a\x1b[31m\x9b\x7fb", "a-[31m-b"),
        ("a\u2028b\u2029c\u0085d", "a-b-c-d"),
        ("gnp\u202exof", "gnp-xof"),
        ("..", "-"),
        (".hidden", "hidden"),
        ("x/../y", "x-..-y"),
        ("\udcff", "?".replace("?", "-")),
        ("", "-"),
    ],
)
def test_a_name_is_safe_everywhere(text: str, name: str) -> None:
    assert safe_name(text) == name


@pytest.mark.parametrize("letter", ["x", "日", "🦊", "é"])
def test_long_names_are_cut_between_letters(letter: str) -> None:
    name = safe_name(letter * 240)
    assert 100 < len(name.encode()) <= 120
    assert set(name) == {letter}
