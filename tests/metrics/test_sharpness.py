"""The measure that tells a morph from a cross-fade, on sequences of which it is known which they are."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from smoothtool.errors import InputError
from smoothtool.metrics.sequences import adjacent_l2, deviation
from smoothtool.metrics.sharpness import detail_energy, sharpness

COUNT = 9


def textures(count: int, size: int = 64) -> torch.Tensor:
    """Unrelated fine textures [count, 3, size, size], inside [-1, 1]."""
    return torch.rand((count, 3, size, size), generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8


def cross_fade(first: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    return torch.stack([torch.lerp(first, last, index / (COUNT - 1)) for index in range(COUNT)])


def shift(picture: torch.Tensor) -> torch.Tensor:
    """The simplest morph there is: the picture moves by two pixels a frame."""
    return torch.stack([picture.roll(2 * index, dims=-1) for index in range(COUNT)])


def test_a_cross_fade_is_perfectly_even_and_half_as_sharp_in_the_middle() -> None:
    frames = cross_fade(*textures(2))
    assert deviation(frames).population_std == pytest.approx(0, abs=1e-5)
    assert sharpness(frames).middle == pytest.approx(0.5, abs=0.02)


def test_a_morph_that_moves_its_detail_stays_sharp() -> None:
    found = sharpness(shift(textures(1)[0]))
    assert found.middle == pytest.approx(1, abs=0.02)
    assert float(adjacent_l2(shift(textures(1)[0])).min()) > 0


def test_a_cross_fade_to_a_plain_picture_is_told_too() -> None:
    assert sharpness(cross_fade(textures(1)[0], torch.zeros(3, 64, 64))).middle == pytest.approx(0.5, abs=1e-6)


def test_frames_that_are_blurred_between_sharp_ends_are_told() -> None:
    frames = shift(textures(1)[0])
    frames[1:-1] = F.avg_pool2d(frames[1:-1], 3, stride=1, padding=1)
    assert sharpness(frames).middle < 0.1


def test_every_frame_is_measured_against_the_line_between_the_ends() -> None:
    weak, strong = 0.5 * textures(1)[0], textures(1)[0]
    relative = sharpness(torch.stack([weak, strong, strong])).relative
    assert relative == pytest.approx((1 / 0.625,))


def test_an_even_number_of_frames_has_two_in_the_middle() -> None:
    found = sharpness(cross_fade(*textures(2))[::2][:4])
    assert found.middle == pytest.approx(sum(found.relative) / 2)


def test_the_detail_of_a_checkerboard_is_that_of_its_laplacian() -> None:
    board = torch.ones(1, 3, 8, 8)
    board[..., 1::2, ::2] = board[..., ::2, 1::2] = -1
    assert float(detail_energy(board)) == pytest.approx(16)  # four neighbours differ by 1: (4 * 1)^2
    assert float(detail_energy(torch.ones(1, 3, 8, 8))) == 0


def test_plain_ends_have_no_sharpness_to_compare_with() -> None:
    assert sharpness(torch.zeros(3, 3, 8, 8)).middle is None


def test_two_frames_have_none_between_them() -> None:
    with pytest.raises(InputError, match="none between its ends"):
        sharpness(textures(2))
