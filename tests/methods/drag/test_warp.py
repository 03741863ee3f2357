"""The bidirectional warp on pictures whose warped form is known, and the painting of what it uncovers."""

from __future__ import annotations

import pytest
import torch
from scipy.ndimage import label
from torch.testing import assert_close

from smoothtool.diffusion.ddim import add_noise
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import constant, denoise
from smoothtool.errors import InputError
from smoothtool.methods.drag.blended import blended_steps
from smoothtool.methods.drag.warp import bidirectional_warp, connected_parts, follow, warped_picture

SIDE = 32


def picture() -> torch.Tensor:
    return torch.rand((1, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0)) * 2 - 1


def box(top: int, bottom: int, left: int, right: int) -> torch.Tensor:
    region = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    region[top:bottom, left:right] = True
    return region


def rc(*places: tuple[float, float]) -> torch.Tensor:
    return torch.tensor(places, dtype=torch.float32)


def test_one_handle_moves_its_region_as_it_is() -> None:
    warp = bidirectional_warp(box(4, 12, 4, 12), rc((8, 8)), rc((14, 20)))
    warped = warped_picture(picture(), warp)
    kept = ~warp.hole
    expected = picture()
    expected[..., 10:18, 16:24] = picture()[..., 4:12, 4:12]
    assert int(kept[10:18, 16:24].sum()) == 6 * 6  # all but the seam
    assert_close(warped[..., kept], expected[..., kept], rtol=1e-5, atol=1e-5)


def test_a_handle_on_the_far_edge_of_the_last_pixel_moves_its_region() -> None:
    warp = bidirectional_warp(box(24, 32, 24, 32), rc((31.9, 31.6)), rc((21.9, 21.6)))
    assert warp.target_rc.amin(dim=0).tolist() == [14, 14]


def test_what_is_uncovered_is_to_be_painted_and_so_is_the_seam() -> None:
    hole = bidirectional_warp(box(4, 12, 4, 12), rc((8, 8)), rc((8, 20))).hole
    assert torch.equal(hole[3:13, 3:13], torch.ones(10, 10, dtype=torch.bool))
    assert hole[4, 20]  # where the moved region begins
    assert not hole[8, 20]
    assert not hole[20:].any()


def test_the_painted_part_is_first_filled_with_its_surroundings() -> None:
    plain = torch.full((1, 3, SIDE, SIDE), 0.5)
    plain[..., 4:12, 4:12] = -1.0
    warped = warped_picture(plain, bidirectional_warp(box(3, 13, 3, 13), rc((8, 8)), rc((8, 24))))
    assert_close(warped[..., 3:13, 3:13], torch.full((1, 3, 10, 10), 0.5))
    assert_close(warped[..., 5:11, 21:27], torch.full((1, 3, 6, 6), -1.0))


def test_between_two_handles_the_motion_is_their_weighted_mean() -> None:
    moves = follow(rc((0, 5), (0, 2.5)), rc((0, 0), (0, 10)), rc((4, 0), (0, 4)))
    assert_close(moves, rc((2, 2), (3, 1)), rtol=1e-4, atol=1e-4)


def test_only_the_four_nearest_handles_count() -> None:
    known = rc((0, 1), (0, 2), (0, 3), (0, 4), (0, 5))
    far = torch.zeros(5, 2)
    far[4] = 100
    assert_close(follow(rc((0, 0)), known, far), torch.zeros(1, 2))


def test_the_way_back_undoes_the_way_there() -> None:
    region, handles, targets = box(6, 26, 6, 26), rc((16, 8), (16, 24)), rc((16, 6), (16, 26))
    warp = bidirectional_warp(region, handles, targets)
    forwards = warp.source_rc + follow(warp.source_rc, handles, targets - handles)
    error = (forwards - warp.target_rc).norm(dim=1)
    assert float(error.median()) < 0.1
    assert float(error.quantile(0.95)) < 0.5


def test_few_pairs_stand_for_a_whole_region() -> None:
    arguments = (box(4, 20, 4, 20), rc((12, 8), (12, 16)), rc((14, 8), (14, 18)))
    all_pairs, few = bidirectional_warp(*arguments), bidirectional_warp(*arguments, most_pairs=64)
    first, second = (
        dict(zip(map(tuple, warp.target_rc.tolist()), warp.source_rc, strict=True)) for warp in (all_pairs, few)
    )
    common = first.keys() & second.keys()
    assert len(common) > 0.9 * len(first)
    assert max(float((first[place] - second[place]).norm()) for place in common) < 1


def test_a_part_of_the_mask_without_a_handle_stays() -> None:
    region = box(2, 8, 2, 8) | box(20, 28, 20, 28)
    warp = bidirectional_warp(region, rc((4, 4)), rc((4, 14)))
    assert not warp.hole[18:, 18:].any()
    assert not (warp.target_rc > 18).all(dim=1).any()


def test_a_region_moves_whole_even_where_its_target_lies_inside_it() -> None:
    warp = bidirectional_warp(box(4, 12, 4, 14), rc((8, 7)), rc((10, 12)))
    reached = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    reached[warp.target_rc[:, 0], warp.target_rc[:, 1]] = True
    assert torch.equal(reached, box(6, 14, 9, 19))


def test_the_hole_of_a_ring_is_not_moved() -> None:
    ring = box(4, 16, 4, 16) & ~box(8, 12, 8, 12)
    warp = bidirectional_warp(ring, rc((5, 10)), rc((5, 26)))
    moved = torch.zeros_like(ring)
    moved[warp.target_rc[:, 0], warp.target_rc[:, 1]] = True
    assert torch.equal(moved[4:16, 20:32], ring[4:16, 4:16])


def test_a_region_dragged_out_of_the_picture_is_cut_off() -> None:
    warp = bidirectional_warp(box(4, 12, 20, 30), rc((8, 25)), rc((8, 31)))
    assert int(warp.target_rc[:, 1].max()) == SIDE - 1
    assert torch.isfinite(warped_picture(picture(), warp)).all()


def test_points_outside_the_mask_are_refused() -> None:
    with pytest.raises(InputError, match="no point lies inside the mask"):
        bidirectional_warp(box(4, 12, 4, 12), rc((20, 20)), rc((8, 8)))


def test_parts_are_counted_as_scipy_does() -> None:
    region = torch.rand((24, 24), generator=torch.Generator().manual_seed(3)) > 0.6
    theirs, count = label(region.numpy(), structure=[[1] * 3] * 3)
    ours = connected_parts(region)
    assert len(ours.unique()) - 1 == count
    for number in range(1, count + 1):
        assert len(ours[torch.from_numpy(theirs) == number].unique()) == 1


def paint(model: DiffusionModel, hole: torch.Tensor, start: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    latents, noise = torch.randn(2, 1, 4, 16, 16, generator=torch.Generator().manual_seed(4))
    text, null = model.encode_prompts(["a cat"]), model.encode_prompts([""])
    *_, last = blended_steps(model, latents, hole, text, null, noise, 4, 2.0, start)
    return latents, noise, last.latents


def test_painting_leaves_what_is_outside_the_hole_exactly(model: DiffusionModel) -> None:
    hole = torch.zeros(1, 1, 16, 16)
    hole[..., :8] = 1
    latents, _, painted = paint(model, hole, start=1)
    assert torch.equal(painted[..., 8:], latents[..., 8:])
    assert (painted[..., :8] - latents[..., :8]).abs().max() > 1e-2


def test_painting_everything_is_sampling(model: DiffusionModel) -> None:
    _, noise, painted = paint(model, torch.ones(1, 1, 16, 16))
    latents, _, _ = paint(model, torch.zeros(1, 1, 16, 16))
    start = add_noise(latents, noise, model.schedule.alpha_pairs(4)[0][1])
    text, null = model.encode_prompts(["a cat"]), model.encode_prompts([""])
    *_, sampled = denoise(model, start, constant(text), constant(null), 4, 2.0)
    assert_close(painted, sampled.latents)


def test_painting_gives_the_picture_back_when_the_noise_is_predicted_exactly(
    model: DiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = torch.randn(2, 1, 4, 16, 16, generator=torch.Generator().manual_seed(4))[1]
    monkeypatch.setattr(model, "predict_noise", lambda latents, timestep, text: noise.expand_as(latents))
    latents, _, painted = paint(model, torch.ones(1, 1, 16, 16), start=1)
    final = model.schedule.final_alpha_cumprod
    assert_close(painted, final**0.5 * latents + (1 - final) ** 0.5 * noise, rtol=1e-4, atol=1e-4)
