"""The handles of a drag, drawn travelling to their targets over the picture."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from smoothtool.types import DragPoints

SMALLEST_PX = 384
"""Longer side of the frames: smaller pictures are enlarged, so that dots and lines are told apart."""
MOST_FRAMES = 48
HANDLE, TARGET, EDGE = (214, 40, 40), (29, 78, 216), (255, 255, 255)
HELD_FRAMES = 12
"""The result stays for a moment before the animation starts again."""

Places = Sequence[tuple[float, float]]


def trajectory_frames(
    before: Image.Image, after: Image.Image, points: DragPoints, path_xy_px: Sequence[Places]
) -> list[Image.Image]:
    """Frames of the handles at every iteration over the picture before, then the picture after.

    path_xy_px  per iteration the P handles, in pixels of the picture
    """
    stride = max(1, -(-len(path_xy_px) // MOST_FRAMES))
    shown = [*range(0, len(path_xy_px), stride), len(path_xy_px) - 1]
    frames = [draw_points(before, path_xy_px[at], points.targets_xy_px, path_xy_px[: at + 1]) for at in shown]
    return [*frames, *[_enlarged(after)[0]] * HELD_FRAMES]


def draw_points(
    picture: Image.Image, handles_xy_px: Places, targets_xy_px: Places, path_xy_px: Sequence[Places] = ()
) -> Image.Image:
    """The picture, enlarged when small, with handles (red), targets (blue), and the way between them."""
    frame, scale = _enlarged(picture)
    draw, radius = ImageDraw.Draw(frame), max(frame.size) / 80
    trails = [[_at(place, scale) for place in trail] for trail in zip(*path_xy_px, strict=True)]
    for handle, target in zip(handles_xy_px, targets_xy_px, strict=True):
        draw.line([_at(handle, scale), _at(target, scale)], fill=EDGE, width=max(1, round(radius / 3)))
        _dot(draw, _at(target, scale), radius, TARGET)
    for trail in trails:
        draw.line(trail, fill=HANDLE, width=max(1, round(radius / 2)))
    for handle in handles_xy_px:
        _dot(draw, _at(handle, scale), radius, HANDLE)
    return frame


def _enlarged(picture: Image.Image) -> tuple[Image.Image, float]:
    scale = max(1.0, SMALLEST_PX / max(picture.size))
    size = (round(picture.width * scale), round(picture.height * scale))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS), scale


def _at(place: tuple[float, float], scale: float) -> tuple[float, float]:
    """Pixel centres are at half pixels."""
    return (place[0] + 0.5) * scale, (place[1] + 0.5) * scale


def _dot(draw: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, colour: tuple[int, int, int]) -> None:
    x, y = centre
    draw.ellipse(
        (x - radius, y - radius, x + radius, y + radius), fill=colour, outline=EDGE, width=max(1, round(radius / 4))
    )
