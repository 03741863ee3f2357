"""Barycentres of three and four noises: a Gaussian again, and the pictures themselves at the corners."""

from __future__ import annotations

import pytest
import torch

from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import constant, denoise
from smoothtool.methods.interpolation.barycentres import barycentre_steps, barycentres, grid_weights, weighted_text


def noise(count: int, *shape: int) -> torch.Tensor:
    return torch.randn((count, *(shape or (4, 16, 16))), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("pictures", [3, 4])
def test_the_corners_of_a_grid_are_the_pictures_themselves(pictures: int) -> None:
    rows = grid_weights(pictures, 2)
    corners = (
        [rows[0][0], rows[-1][0], rows[-1][-1]]
        if pictures == 3
        else [rows[0][0], rows[0][-1], rows[-1][0], rows[-1][-1]]
    )
    assert torch.equal(barycentres(noise(pictures), corners), noise(pictures))


@pytest.mark.parametrize("pictures", [3, 4])
def test_the_weights_of_a_grid_are_shares_of_one(pictures: int) -> None:
    rows = grid_weights(pictures, 3)
    assert [len(row) for row in rows] == ([1, 2, 3, 4, 5] if pictures == 3 else [5] * 5)
    for weights in (weights for row in rows for weights in row):
        assert sum(weights) == pytest.approx(1)
        assert min(weights) > -1e-12


def test_the_middle_of_a_square_has_a_quarter_of_every_picture() -> None:
    assert grid_weights(4, 1)[1][1] == (0.25, 0.25, 0.25, 0.25)
    assert grid_weights(3, 2)[2][1] == pytest.approx((1 / 3, 1 / 3, 1 / 3))


def test_a_grid_has_three_or_four_corners() -> None:
    with pytest.raises(ValueError, match="not 2"):
        grid_weights(2, 1)


def test_a_mixture_of_orthonormal_latents_keeps_their_length() -> None:
    frames, _ = torch.linalg.qr(noise(64, 4)[:, :].double())
    weights = [weights for row in grid_weights(4, 2) for weights in row]
    assert barycentres(frames.T, weights).norm(dim=1).tolist() == pytest.approx([1] * len(weights))


def test_a_mixture_of_draws_has_the_mean_and_deviation_of_one_draw() -> None:
    draws = 3 + noise(3, 40_000)
    (mixed,) = barycentres(draws, [(0.5, 0.3, 0.2)], mean=3)
    assert float(mixed.mean()) == pytest.approx(3, abs=0.03)
    assert float(mixed.std()) == pytest.approx(1, abs=0.02)


def test_text_is_averaged_with_the_same_weights(model: DiffusionModel) -> None:
    text = model.encode_prompts(["a cat", "a dog", "a fox"])
    mixed = weighted_text(text, [(0.5, 0.3, 0.2)])
    expected = sum(w * row for w, row in zip((0.5, 0.3, 0.2), text.prompt_embeds, strict=True))
    torch.testing.assert_close(mixed.prompt_embeds[0], expected)


def test_a_corner_of_the_grid_samples_its_own_picture(model: DiffusionModel) -> None:
    text, null = model.encode_prompts(["a cat", "a dog", "a fox"]), model.encode_prompts([""])
    weights = [(0.2, 0.2, 0.6), (0.0, 1.0, 0.0)]
    *_, grid = barycentre_steps(model, noise(3), text, null, None, weights, 2, 3.0)
    *_, alone = denoise(model, noise(3)[1:2], constant(text[[1]]), constant(null), 2, 3.0)
    torch.testing.assert_close(grid.latents[1:], alone.latents, rtol=1e-4, atol=1e-4)
