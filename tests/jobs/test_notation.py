"""Small texts that mean something: what is another program's notation is recognised, and told apart from words."""

from __future__ import annotations

import time

import pytest

from smoothtool.jobs.notation import a1111_notation


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("a (red:1.4) car", ["(red:1.4)"]),
        ("a (red , deep red: 1.4 ) car BREAK blue", ["(red , deep red: 1.4 )", "BREAK"]),
        ("fox <lora:x:0.8> <LORA:y:1>", ["<lora:x:0.8>", "<LORA:y:1>"]),
        ("<lyco:a:1> <hypernet:b:.5> <embedding:c>", ["<lyco:a:1>", "<hypernet:b:.5>", "<embedding:c>"]),
        ("((red)) [a|b] [red:blue:0.5] [red:.3]", ["((red))", "[a|b]", "[red:blue:0.5]", "[red:.3]"]),
        ("a cat AND a dog", ["AND"]),
    ],
)
def test_a1111_notation_is_recognised(prompt: str, parts: list[str]) -> None:
    assert a1111_notation(prompt) == parts


@pytest.mark.parametrize(
    "prompt",
    [
        "a fox (vulpes)",
        r"rem \(series:2\)",
        "at 10:30, [sic]",
        "BREAK DANCE AND FUN",
        "a < b > c",
        "breakfast",
        "a (b: c)",
    ],
)
def test_ordinary_words_are_left_alone(prompt: str) -> None:
    assert a1111_notation(prompt) == []


@pytest.mark.parametrize("letters", ["(", "[", "<", "[:", "(1:", "(a:1)" * 100 + "("])
def test_long_prompts_take_no_time(letters: str) -> None:
    began = time.monotonic()
    a1111_notation(letters * (10_000 // len(letters)))
    assert time.monotonic() - began < 1
