"""The line plot draws what it is given."""

from __future__ import annotations

import pytest
from PIL import Image

from smoothtool.files.drawing.plots import COLOURS, PAPER, SIZE_PX, Line, _x_ticks, line_plot


def flat(y: float) -> Line:
    return Line("flat", [1, 2, 3], [y] * 3, [y] * 3, [y] * 3)


def rows_of_colour(picture: Image.Image, colour: tuple[int, int, int]) -> set[int]:
    """Rows a third from the left where a pixel is nearly of that colour: reducing the picture blends edges a little."""
    column = [(y, picture.getpixel((picture.width // 3, y))) for y in range(picture.height)]
    return {y for y, pixel in column if all(abs(a - b) < 40 for a, b in zip(pixel, colour, strict=True))}


def test_higher_values_are_drawn_higher() -> None:
    picture = line_plot([flat(2), flat(8)], "t", "x", "y")
    assert picture.size == SIZE_PX
    low, high = (rows_of_colour(picture, colour) for colour in COLOURS[:2])
    assert low
    assert high
    assert max(high) < min(low)


def test_a_value_of_half_the_axis_is_drawn_at_half_the_height() -> None:
    rows = rows_of_colour(line_plot([Line("", [0, 1], [5, 5], [5, 5], [10, 10])], "", "", ""), COLOURS[0])
    assert sum(rows) / len(rows) == pytest.approx((48 + SIZE_PX[1] - 60) / 2, abs=1.5)


def test_zeros_and_a_single_point_are_drawn_too() -> None:
    for line in (flat(0), Line("", [1], [3], [3], [3])):
        picture = line_plot([line], "", "", "")
        assert len(picture.getcolors(maxcolors=100_000)) > 2
        assert picture.getpixel((2, 2)) == PAPER


def test_many_values_get_round_ticks_that_do_not_overlap() -> None:
    assert _x_ticks([1, 2, 3]) == [1, 2, 3]
    assert _x_ticks(range(5, 501, 5)) == [100, 200, 300, 400, 500]
