from __future__ import annotations

import torch

from smoothtool.stickers.making.guidance import best_scale, saturation


def test_of_the_scales_that_are_right_most_often_the_one_nearest_to_drawings_wins() -> None:
    rows = [
        {"guidance": 1.5, "concept": 0.95, "style": 0.80, "frechet": 0.05},
        {"guidance": 2.0, "concept": 0.80, "style": 0.96, "frechet": 0.1},
        {"guidance": 4.0, "concept": 0.95, "style": 0.96, "frechet": 0.2},
        {"guidance": 7.5, "concept": 0.955, "style": 0.96, "frechet": 0.4},
    ]
    assert best_scale(rows) == 4.0


def test_saturation_is_nothing_for_gray_and_all_for_pure_colours() -> None:
    assert saturation(torch.full((1, 3, 2, 2), 0.3)) == 0
    pure = torch.tensor([1.0, -1.0, -1.0])[None, :, None, None].expand(1, 3, 2, 2)
    assert saturation(pure) == 2
