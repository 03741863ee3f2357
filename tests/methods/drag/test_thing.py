"""What lies under a point: whole things on even backgrounds, and None where nothing stands out."""

from __future__ import annotations

import pytest
import torch

from smoothtool.methods.drag.thing import otsu_threshold, thing_at

WARM, COLD = torch.tensor([0.8, -0.2, -0.8]), torch.tensor([-0.8, 0.2, 0.9])


def scene(*things: tuple[slice, slice, torch.Tensor], noise: float = 0.02) -> torch.Tensor:
    """pixel_values [1, 3, 32, 40] of a background that fades from grey to light grey, and things on it."""
    picture = torch.linspace(-0.2, 0.2, 40).expand(3, 32, 40).clone()
    picture += noise * torch.randn(picture.shape, generator=torch.Generator().manual_seed(0))
    for rows, cols, colour in things:
        picture[:, rows, cols] = colour[:, None, None]
    return picture[None]


def box(rows: slice, cols: slice) -> torch.Tensor:
    found = torch.zeros(32, 40, dtype=torch.bool)
    found[rows, cols] = True
    return found


APPLE, STEM, OTHER = (slice(10, 20), slice(8, 18)), (slice(5, 9), slice(12, 14)), (slice(22, 30), slice(28, 36))


def test_a_thing_of_several_colours_is_found_whole_and_alone() -> None:
    """Its stem hangs over a gap of one pixel; another thing is not under the point; a hole in it is part of it."""
    picture = scene((*APPLE, WARM), (*STEM, COLD), (*OTHER, WARM))
    picture[..., 14:16, 12:14] = picture[..., 14:16, 20:22]
    found = thing_at(picture, torch.tensor([[12.0, 10.0]]))
    assert found is not None
    assert torch.equal(found, box(*APPLE) | box(*STEM))


def test_every_handle_brings_its_thing() -> None:
    found = thing_at(scene((*APPLE, WARM), (*OTHER, COLD)), torch.tensor([[12.0, 10.0], [25.0, 30.0]]))
    assert found is not None
    assert torch.equal(found, box(*APPLE) | box(*OTHER))


@pytest.mark.parametrize(
    ("picture", "handle"),
    [
        (scene((*APPLE, WARM)), [26.0, 30.0]),
        (scene(noise=0.0), [12.0, 10.0]),
        (scene((slice(2, 30), slice(2, 38), WARM)), [12.0, 10.0]),
    ],
    ids=["on the background", "nothing there", "most of the picture"],
)
def test_where_nothing_stands_out_nothing_is_found(picture: torch.Tensor, handle: list[float]) -> None:
    assert thing_at(picture, torch.tensor([handle])) is None


def test_otsus_threshold_lies_between_two_heaps_and_at_the_top_of_one() -> None:
    values = torch.cat([torch.linspace(0.0, 0.1, 90), torch.linspace(0.8, 1.0, 10)])
    assert 0.1 < otsu_threshold(values) < 0.8
    assert otsu_threshold(torch.full((5,), 0.3)) == pytest.approx(0.3)
