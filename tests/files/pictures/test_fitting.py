"""Any size into a size the model takes, and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from smoothtool.errors import UsageError
from smoothtool.files.pictures.fitting import crop_back, fit_image, to_pixel_values


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize("size", [(64, 64), (50, 70), (96, 96), (33, 144)])
def test_a_picture_near_the_native_size_keeps_its_size_and_pixels(size: tuple[int, int]) -> None:
    fitted = fit_image(noise(*size), multiple=16, size=None, native_px=64)
    assert fitted.size_px == size
    assert torch.equal(crop_back(fitted.pixel_values, fitted), to_pixel_values(noise(*size)))


@pytest.mark.parametrize("size", [(97, 97), (640, 480), (1, 1), (20, 10), (31, 40), (4000, 100)])
def test_any_other_picture_gets_the_native_area_at_its_own_aspect(size: tuple[int, int]) -> None:
    width, height = fit_image(noise(*size), multiple=16, size=None, native_px=64).size_px
    assert width * height == pytest.approx(64**2, rel=0.06)
    assert width / height == pytest.approx(size[0] / size[1], rel=0.06)


@pytest.mark.parametrize("size", [(1, 4000), (4000, 1), (1, 1), (17, 16), (16, 15)])
def test_the_padded_size_is_the_next_multiple(size: tuple[int, int]) -> None:
    fitted = fit_image(noise(*size), multiple=16, size=None, native_px=64)
    height, width = fitted.pixel_values.shape[2:]
    for padded, inside in zip((width, height), fitted.size_px, strict=True):
        assert padded % 16 == 0
        assert 0 <= padded - inside < 16


def test_the_margin_mirrors_the_picture() -> None:
    fitted = fit_image(noise(60, 64), multiple=16, size=None, native_px=64)
    assert torch.equal(fitted.pixel_values[..., 60:64], fitted.pixel_values[..., 55:59].flip(-1))


def test_a_picture_one_pixel_wide_is_padded_with_that_pixel() -> None:
    fitted = fit_image(noise(1, 200), multiple=16, size=(1, 32), native_px=64)
    assert torch.equal(fitted.pixel_values, fitted.pixel_values[..., :1].expand(1, 3, 32, 16))


def test_a_number_is_the_longest_side() -> None:
    assert fit_image(noise(60, 30), multiple=16, size=96, native_px=64).size_px == (96, 48)


def test_width_and_height_crop_the_centre_without_stretching() -> None:
    """Of a wide picture whose outer thirds are red, a square keeps only the green middle."""
    picture = Image.new("RGB", (300, 100), "red")
    picture.paste((0, 255, 0), (100, 0, 200, 100))
    fitted = fit_image(picture, multiple=16, size=(64, 64), native_px=64)
    assert fitted.size_px == (64, 64)
    green = torch.tensor([-1.0, 1.0, -1.0])[:, None, None].expand(3, 64, 58)
    assert torch.equal(fitted.pixel_values[0, :, :, 3:-3], green)  # the filter sees three pixels past the crop


@pytest.mark.parametrize("size", [(64, 64), (1, 4000), (300, 7)])
def test_the_second_picture_takes_exactly_the_size_of_the_first(size: tuple[int, int]) -> None:
    assert fit_image(noise(*size), multiple=16, size=512, native_px=64, aspect_of=(80, 48)).size_px == (80, 48)


def test_the_original_size_is_remembered() -> None:
    assert fit_image(noise(640, 480), multiple=16, size=None, native_px=64).original_size_px == (640, 480)


@pytest.mark.parametrize("size", [0, -64, (64, 0), 100_000])
def test_an_impossible_size_is_refused(size: int | tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="--size"):
        fit_image(noise(64, 64), multiple=16, size=size, native_px=64)


@pytest.mark.parametrize(
    ("size", "options", "cropped"),
    [
        ((64, 96), {"size": None}, (0, 0)),
        ((128, 64), {"size": None, "aspect_of": (64, 96)}, (128 - 64 * 64 / 96, 0)),
        ((64, 128), {"size": (64, 64)}, (0, 64)),
        ((640, 960), {"size": 64, "aspect_of": (64, 96)}, (0, 0)),
    ],
)
def test_what_is_cropped_away_is_counted(size: tuple[int, int], options: dict, cropped: tuple[float, float]) -> None:
    fitted = fit_image(noise(*size), multiple=8, native_px=64, **options)
    assert fitted.cropped_px == pytest.approx(cropped)
