"""Slerp and the walk."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial import geometric_slerp

from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import constant, denoise
from smoothtool.methods.interpolation.slerp import slerp, uniform_ratios
from smoothtool.methods.interpolation.walk import walk_starts, walk_steps, walk_text


def test_nine_frames_are_at_tenths() -> None:
    assert uniform_ratios(9) == pytest.approx([0.1 * k for k in range(1, 10)])


def test_slerp_of_unit_vectors_equals_scipy() -> None:
    a, b = (vector / vector.norm() for vector in torch.randn(2, 64, dtype=torch.float64))
    theirs = geometric_slerp(a.numpy(), b.numpy(), [0.3])[0]
    torch.testing.assert_close(slerp(a, b, 0.3), torch.from_numpy(theirs))


def test_the_ends_are_exact() -> None:
    a, b = torch.randn(4, 8, 8), torch.randn(4, 8, 8)
    assert torch.equal(slerp(a, b, 0.0), a)
    assert torch.equal(slerp(a, b, 1.0), b)


def test_slerp_keeps_the_length_of_noise() -> None:
    a, b = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    middle = float(slerp(a, b, 0.5).norm())
    assert middle == pytest.approx(math.sqrt(a.numel()), rel=0.1)


def test_identical_latents_stay_as_they_are() -> None:
    a = torch.randn(4, 8, 8)
    torch.testing.assert_close(slerp(a, a.clone(), 0.4), a)


def test_opposite_latents_go_round_without_losing_length() -> None:
    a = torch.randn(4, 8, 8)
    for ratio in (0.25, 0.5, 0.75):
        assert float(slerp(a, -a, ratio).norm()) == pytest.approx(float(a.norm()), rel=1e-5)


def test_all_zero_latents_do_not_become_nan() -> None:
    assert torch.isfinite(slerp(torch.zeros(4, 8, 8), torch.randn(4, 8, 8), 0.5)).all()


def test_a_chain_walks_between_neighbours() -> None:
    noise = torch.randn(3, 4, 8, 8)
    starts = walk_starts(noise, uniform_ratios(2))
    assert starts.shape == (4, 4, 8, 8)
    torch.testing.assert_close(starts[3], slerp(noise[1], noise[2], 2 / 3))


def test_text_is_lerped_between_neighbours(model: DiffusionModel) -> None:
    text = model.encode_prompts(["a cat", "a dog", "a fox"])
    between = walk_text(text, [0.25])
    expected = 0.75 * text.prompt_embeds[1] + 0.25 * text.prompt_embeds[2]
    torch.testing.assert_close(between.prompt_embeds[1], expected)


def test_frames_do_not_depend_on_their_batch(model: DiffusionModel) -> None:
    noise, text, null = torch.randn(2, 4, 16, 16), model.encode_prompts(["a cat", "a cat"]), model.encode_prompts([""])
    *_, walk = walk_steps(model, noise, text, null, None, [0.25, 0.75], 3, 2.0)
    *_, alone = denoise(model, slerp(noise[0], noise[1], 0.75)[None], constant(text[[0]]), constant(null), 3, 2.0)
    torch.testing.assert_close(walk.latents[[1]], alone.latents, rtol=1e-4, atol=1e-4)
