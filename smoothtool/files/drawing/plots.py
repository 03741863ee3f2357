"""A line plot with bands, drawn with Pillow: enough for a report, and no further dependency."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

PAPER, INK, GRID = (250, 250, 248), (40, 40, 44), (224, 224, 220)
COLOURS = ((38, 104, 176), (214, 96, 32), (60, 140, 70), (130, 60, 170))
SIZE_PX, MARGIN_PX = (960, 540), (84, 48, 24, 60)  # margins: left, top, right, bottom
MOST_TICKS = 12  # of the x axis; with more values than that, round numbers stand there and the points lose their dots
SMOOTHING = 2  # drawn this much larger and reduced, because Pillow's lines have hard edges


@dataclass(frozen=True)
class Line:
    """One line y(x), with a band from `low` to `high` around it; all four of one length."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def line_plot(lines: Sequence[Line], title: str, x_label: str, y_label: str) -> Image.Image:
    """All lines on one pair of axes; y starts at 0, the legend stands at the top right."""
    top = _nice_step(max(value for line in lines for value in line.high))
    canvas = _Axes(min(min(line.x) for line in lines), max(max(line.x) for line in lines), top * 5)
    canvas.grid([top * tick for tick in range(6)], _x_ticks(sorted({x for line in lines for x in line.x})))
    for line, colour in zip(lines, COLOURS, strict=False):
        canvas.line(line, colour)
    canvas.words(title, x_label, y_label, [line.label for line in lines])
    return canvas.picture.resize(SIZE_PX, Image.Resampling.LANCZOS)


def _x_ticks(values: Sequence[float]) -> Sequence[float]:
    """The values themselves where they are few, else round numbers between the first and the last."""
    if len(values) <= MOST_TICKS:
        return values
    step = _nice_step(values[-1] - values[0])
    return [step * tick for tick in range(math.ceil(values[0] / step), math.floor(values[-1] / step) + 1)]


def _nice_step(highest: float) -> float:
    """A fifth of an axis: 1, 2, 2.5 or 5 times a power of ten."""
    if not highest > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(highest / 5))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power * 5 >= highest)


class _Axes:
    """Data coordinates on an enlarged canvas."""

    def __init__(self, x_min: float, x_max: float, y_max: float) -> None:
        width, height = (side * SMOOTHING for side in SIZE_PX)
        self.picture = Image.new("RGB", (width, height), PAPER)
        self.draw = ImageDraw.Draw(self.picture, "RGBA")
        self.font = ImageFont.load_default(size=16 * SMOOTHING)
        left, top, right, bottom = (margin * SMOOTHING for margin in MARGIN_PX)
        self.left, self.top, self.right, self.bottom = left, top, width - right, height - bottom
        self.x_min, self.x_span, self.y_max = x_min, (x_max - x_min) or 1.0, y_max

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = self.left + (x - self.x_min) / self.x_span * (self.right - self.left)
        return across, self.bottom - y / self.y_max * (self.bottom - self.top)

    def grid(self, y_ticks: Sequence[float], x_ticks: Sequence[float]) -> None:
        for y in y_ticks:
            place = self.at(self.x_min, y)
            self.draw.line([place, (self.right, place[1])], fill=GRID, width=SMOOTHING)
            self.draw.text((place[0] - 8 * SMOOTHING, place[1]), f"{y:g}", fill=INK, font=self.font, anchor="rm")
        for x in x_ticks:
            place = self.at(x, 0)
            self.draw.text((place[0], place[1] + 8 * SMOOTHING), f"{x:g}", fill=INK, font=self.font, anchor="mt")

    def line(self, line: Line, colour: tuple[int, int, int]) -> None:
        above = [self.at(x, y) for x, y in zip(line.x, line.high, strict=True)]
        below = [self.at(x, y) for x, y in zip(line.x, line.low, strict=True)]
        points = [self.at(x, y) for x, y in zip(line.x, line.y, strict=True)]
        if len(points) > 1:
            self.draw.polygon([*above, *reversed(below)], fill=(*colour, 48))
            self.draw.line(points, fill=colour, width=3 * SMOOTHING, joint="curve")
        reach = 4 * SMOOTHING
        for x, y in points if len(points) <= MOST_TICKS else ():
            self.draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour)

    def words(self, title: str, x_label: str, y_label: str, labels: Sequence[str]) -> None:
        gap = 10 * SMOOTHING
        self.draw.text((self.left, gap), f"{title}    {y_label}", fill=INK, font=self.font)
        middle = (self.left + self.right) / 2
        self.draw.text((middle, self.picture.height - gap), x_label, fill=INK, font=self.font, anchor="ms")
        for row, (label, colour) in enumerate(zip(labels, COLOURS, strict=False)):
            place = (self.right - gap, self.top + gap + row * 24 * SMOOTHING)
            self.draw.text(place, label, fill=colour, font=self.font, anchor="rt")
