"""Finding dragged points again: against the enlarged map written out, and for features that moved by known pixels."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from smoothtool.diffusion.model import DiffusionModel
from smoothtool.files.lists.points import points_from_numbers
from smoothtool.metrics.drag_distance import correspondence_feature, find_points, target_distances


def features() -> torch.Tensor:
    return torch.randn(1, 70, 6, 8, generator=torch.Generator().manual_seed(0))


def test_a_point_is_found_where_cosine_similarity_of_the_enlarged_map_is_largest() -> None:
    before, after, (x, y) = features(), features().flip(2) + 0.3, (13.0, 7.0)
    large = F.interpolate(before, (24, 32), mode="bilinear"), F.interpolate(after, (24, 32), mode="bilinear")
    likeness = torch.cosine_similarity(large[0][:, :, 7, 13][..., None, None], large[1], dim=1)
    row, col = divmod(int(likeness.argmax()), 32)
    assert find_points(before, after, ((x, y),), (32, 24)) == [(col, row)]


def test_points_of_an_unchanged_picture_are_found_where_they_were() -> None:
    places = ((3.0, 5.0), (20.0, 17.0), (27.0, 20.0))
    assert find_points(features(), features(), places, (32, 24)) == [(3, 5), (20, 17), (27, 20)]


def test_features_moved_by_a_cell_are_found_a_cell_further() -> None:
    [(x, y)] = find_points(features(), features().roll(1, dims=3), ((13.0, 9.0),), (32, 24))
    assert (x, y) == (17, 9)


def test_the_distance_is_from_the_place_found_to_the_target() -> None:
    points = points_from_numbers([[0, 0, 3, 4], [5, 5, 6, 6]])
    assert target_distances([(0, 0), (6, 6)], points) == pytest.approx([5.0, 0.0])


def test_the_feature_is_the_same_for_the_same_picture(model: DiffusionModel) -> None:
    picture = torch.rand(1, 3, 32, 32) * 2 - 1
    first, second = (correspondence_feature(model, picture, "a fox") for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape[-2:] == (16, 16)
