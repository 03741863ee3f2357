"""Any picture into the sizes a model can take, and back: scale, crop the centre, pad, never stretch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from smoothtool.errors import UsageError

if TYPE_CHECKING:
    import torch

LARGEST_PX = 64_000_000  # an extreme aspect ratio times a native area can ask for more than any memory holds


@dataclass(frozen=True)
class Fitted:
    """A picture ready for the model.

    pixel_values      [1, 3, H, W] in [-1, 1], padded at right and bottom to the multiple
    size_px           (width, height) of the picture inside the padding
    original_size_px  (width, height) of the file
    cropped_px        (width, height) of the file that was cut away to give it another shape
    """

    pixel_values: torch.Tensor
    size_px: tuple[int, int]
    original_size_px: tuple[int, int]
    cropped_px: tuple[float, float] = (0.0, 0.0)


def to_pixel_values(image: Image.Image) -> torch.Tensor:
    """8-bit picture -> pixel_values [1, 3, H, W] float32 in [-1, 1]."""
    return _tensor(np.array(image.convert("RGB")))


def fit_image(
    image: Image.Image,
    *,
    multiple: int,
    size: tuple[int, int] | int | None,
    native_px: int,
    aspect_of: tuple[int, int] | None = None,
) -> Fitted:
    """Scale the picture to a size the model works well at, and pad it to a multiple of `multiple` pixels.

    size       None: its own size while that is near what the model was trained on, else its area becomes
               native_px^2; a number: the longest side; (width, height): that size, the centre cropped to its aspect
    native_px  side of the square pictures that the model was trained on
    aspect_of  (width, height) of another fitted picture: crop and scale to exactly that; wins over `size`
    Raises: UsageError when the size asked for is not positive or absurdly large.
    """
    exact = aspect_of or (size if isinstance(size, tuple) else None)
    size_px = exact or fitted_size_px(image.size, size, native_px)
    _check_size(size_px, image.size)
    box = _centre_box(image.size, exact or image.size)
    scaled = image.convert("RGB").resize(size_px, Image.Resampling.LANCZOS, box=box)
    width, height = size_px
    margins = ((0, -height % multiple), (0, -width % multiple), (0, 0))
    # A mirrored margin goes on like the picture; numpy repeats the edge where one pixel leaves nothing to mirror.
    padded = np.pad(np.asarray(scaled), margins, mode="reflect")
    cropped = (image.width - (box[2] - box[0]), image.height - (box[3] - box[1]))
    return Fitted(_tensor(padded), size_px, image.size, cropped)


def fitted_size_px(size_px: tuple[int, int], size: tuple[int, int] | int | None, native_px: int) -> tuple[int, int]:
    """The (width, height) that `fit_image` gives a picture of `size_px`, before it is padded."""
    if isinstance(size, tuple):
        return size
    area, short = size_px[0] * size_px[1], min(size_px)
    if size is not None:
        scale = size / max(size_px)
    elif area <= 2.25 * native_px**2 and short >= native_px / 2:
        return size_px
    else:
        scale = native_px / math.sqrt(area)
    # A negative size asked for must stay negative until it is refused.
    return _at_least_one(size_px[0] * scale), _at_least_one(size_px[1] * scale)


def crop_back(pixel_values: torch.Tensor, fitted: Fitted) -> torch.Tensor:
    """[B, 3, H, W] -> [B, 3, h, w]: the padding of `fitted` cut off again."""
    width, height = fitted.size_px
    return pixel_values[..., :height, :width]


def at_input_size(picture: Image.Image, fitted: Fitted) -> Image.Image:
    """A picture that was worked on at another scale, at the size of the file; one that was cropped stays as it is."""
    (width, height), (wide, high) = picture.size, fitted.original_size_px
    scaled = (wide, high) != (width, height) and abs(width * high - height * wide) <= max(wide, high)
    return picture.resize((wide, high), Image.Resampling.LANCZOS) if scaled else picture


def _tensor(levels: np.ndarray) -> torch.Tensor:
    import torch

    return torch.from_numpy(levels).permute(2, 0, 1)[None].contiguous().float() / 127.5 - 1


def _at_least_one(length_px: float) -> int:
    return max(1, round(length_px)) if length_px > 0 else round(length_px)


def _check_size(size_px: tuple[int, int], original_size_px: tuple[int, int]) -> None:
    width, height = size_px
    if width < 1 or height < 1 or width * height > LARGEST_PX:
        was = f"{original_size_px[0]}x{original_size_px[1]}"
        raise UsageError(f"--size: a {was} px picture cannot become {width}x{height} px", "--size 512")


def _centre_box(size_px: tuple[int, int], aspect: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest centred box (left, top, right, bottom) of that aspect ratio, to fractions of a pixel."""
    width, height = size_px
    scale = min(width / aspect[0], height / aspect[1])
    crop_width, crop_height = min(width, aspect[0] * scale), min(height, aspect[1] * scale)
    left, top = (width - crop_width) / 2, (height - crop_height) / 2
    return left, top, left + crop_width, top + crop_height
