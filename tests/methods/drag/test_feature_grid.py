"""Reading patches through separable weights equals reading them from the enlarged map."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from smoothtool.methods.drag.feature_grid import FeatureGrid
from smoothtool.methods.drag.motion_supervision import motion_loss
from smoothtool.methods.drag.point_tracking import track_points


@pytest.fixture
def feature() -> torch.Tensor:
    return torch.randn(1, 5, 6, 8, generator=torch.Generator().manual_seed(1))


def test_patches_at_whole_numbers_are_slices_of_the_interpolated_map(feature: torch.Tensor) -> None:
    grid = FeatureGrid.over(feature, (24, 40))
    whole = F.interpolate(feature, (24, 40), mode="bilinear")
    patch = grid.patches(feature, torch.tensor([[10.0, 20.0]]), 2)
    torch.testing.assert_close(patch[0], whole[0, :, 8:13, 18:23])


def test_patches_between_grid_points_are_bilinear_as_grid_sample_is(feature: torch.Tensor) -> None:
    grid = FeatureGrid.over(feature, (24, 40))
    whole = F.interpolate(feature, (24, 40), mode="bilinear")
    r, c = 10.3, 20.8
    place = torch.tensor([[[[2 * c / 39 - 1, 2 * r / 23 - 1]]]])
    expected = F.grid_sample(whole, place, mode="bilinear", align_corners=True)[0, :, 0, 0]
    torch.testing.assert_close(grid.patches(feature, torch.tensor([[r, c]]), 0)[0, :, 0, 0], expected)


def test_beyond_the_border_the_border_is_repeated(feature: torch.Tensor) -> None:
    grid = FeatureGrid.over(feature, (24, 40))
    whole = F.interpolate(feature, (24, 40), mode="bilinear")
    patch = grid.patches(feature, torch.tensor([[0.0, 39.0]]), 1)[0]
    torch.testing.assert_close(patch[:, 0, 2], whole[0, :, 0, 39])
    assert grid.inside(torch.tensor([[0.0, 39.0]]), 1)[0, 0].tolist() == [
        [False] * 3,
        [True, True, False],
        [True, True, False],
    ]


def test_tracking_finds_a_feature_that_moved_by_whole_grid_pixels() -> None:
    whole = torch.randn(1, 6, 20, 30, generator=torch.Generator().manual_seed(2))
    moved = whole.roll((2, -3), dims=(2, 3))
    grid = FeatureGrid.over(whole, (20, 30))
    handles = torch.tensor([[8.0, 9.0], [12.0, 20.0]])
    looked_for = grid.patches(whole, handles, 0)[:, :, 0, 0]
    assert track_points(grid, moved, handles, looked_for, 3).tolist() == [[10.0, 6.0], [14.0, 17.0]]


def test_tracking_stays_on_the_map_at_a_corner() -> None:
    feature = torch.randn(1, 6, 20, 30, generator=torch.Generator().manual_seed(2))
    grid = FeatureGrid.over(feature, (20, 30))
    elsewhere = torch.full((1, 6), 100.0)
    [[row, col]] = track_points(grid, feature, torch.tensor([[19.0, 0.0]]), elsewhere, 3).tolist()
    assert 16 <= row <= 19
    assert 0 <= col <= 3


def test_motion_loss_of_a_ramp_is_patch_area_times_slope() -> None:
    ramp = torch.arange(20.0).expand(1, 3, 20, 20) * 0.25  # rises along columns by 1/4
    grid = FeatureGrid.over(ramp, (20, 20))
    points = torch.tensor([[10.0, 5.0]])
    assert float(motion_loss(grid, ramp, points, torch.tensor([[10.0, 12.0]]), 1)) == pytest.approx(9 * 0.25)
    assert float(motion_loss(grid, ramp, points, torch.tensor([[16.0, 5.0]]), 1)) == pytest.approx(0.0)


def test_arrived_handles_take_no_part_in_the_loss(feature: torch.Tensor) -> None:
    grid = FeatureGrid.over(feature, (24, 40))
    here, near = torch.tensor([[5.0, 5.0]]), torch.tensor([[5.0, 6.5]])
    assert float(motion_loss(grid, feature, here, near, 1)) == 0.0
