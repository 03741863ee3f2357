"""The parameters text that other tools read."""

from __future__ import annotations

from smoothtool.files.pictures.provenance import a1111_parameters

COMMON = {"steps": 50, "guidance_scale": 7.5, "size_px": (64, 48), "model": "stickers"}


def test_parameters_have_the_three_lines_of_a1111() -> None:
    text = a1111_parameters(prompt="a fox", negative_prompt="blurry", seed=3, **COMMON)
    assert text == (
        "a fox\nNegative prompt: blurry\n"
        "Steps: 50, Sampler: DDIM, CFG scale: 7.5, Seed: 3, Size: 64x48, Model: stickers"
    )


def test_without_negative_prompt_and_seed_neither_is_mentioned() -> None:
    text = a1111_parameters(prompt="a fox", seed=None, **COMMON)
    assert "Negative" not in text
    assert "Seed" not in text


def test_a_prompt_of_several_lines_cannot_pose_as_fields() -> None:
    text = a1111_parameters(prompt="a fox\nSteps: 1, Seed: 9", seed=3, **COMMON)
    assert len(text.splitlines()) == 2


def test_a_value_with_a_comma_is_quoted() -> None:
    text = a1111_parameters(prompt="", seed=3, extra={"LoRA": "a: 1, b: 2"}, **COMMON)
    assert text.endswith('LoRA: "a: 1, b: 2"')
