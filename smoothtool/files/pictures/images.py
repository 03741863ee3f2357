"""Pictures in and out: any file that holds one becomes upright sRGB; tensors become files with settings inside."""

from __future__ import annotations

import os
import warnings
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from smoothtool.errors import InputError, ModelError
from smoothtool.files.pictures.fitting import Fitted, crop_back, fit_image, to_pixel_values
from smoothtool.files.pictures.provenance import DigitalSource, a1111_parameters, metadata_options, settings_inside
from smoothtool.files.storage.writing import atomic_path

if TYPE_CHECKING:
    import torch

__all__ = [
    "Fitted", "a1111_parameters", "crop_back", "fit_image", "load_image", "read_settings", "save_image", "to_image",
    "to_pixel_values",
]  # fmt: skip

# Raster formats that Pillow decodes by itself. EPS would start Ghostscript on a stranger's file.
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF", "JPEG2000", "ICO", "TGA")
SRGB = ImageCms.createProfile("sRGB")


def load_image(
    path: Path, *, content: bytes | None = None, max_pixels: int = 178_000_000, at_least_px: int | None = None
) -> Image.Image:
    """The picture in a file: upright, sRGB, 8-bit RGB, transparency on white, of an animation the first frame.

    content      the file's bytes where it lies inside another; `path` then only names it
    at_least_px  for a thumbnail: sides of a JPEG may be decoded, sooner, at down to an eighth, not below this
    `info["note"]` says when frames were left out.
    Raises: InputError when there is no file, no picture in it, a broken one, or one above `max_pixels`.
    """
    decoded = _decode(path, max_pixels, content, at_least_px)
    picture = _rgb(decoded, path)
    frames = getattr(decoded, "n_frames", 1)
    picture.info = {"note": f"{path.name}: the first of {frames} frames is used"} if frames > 1 else {}
    return picture


def to_image(pixel_values: torch.Tensor) -> Image.Image:
    """pixel_values [3, H, W] or [1, 3, H, W] in [-1, 1], clipped -> 8-bit picture.

    Raises: ModelError when they are not finite: a NaN would silently become black.
    """
    chw = pixel_values.detach().float().cpu().reshape(pixel_values.shape[-3:])
    if not bool(chw.isfinite().all()):
        raise ModelError("the picture came out as NaN and is not saved", "--dtype float32, or lower --guidance")
    levels = ((chw.clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(levels.permute(1, 2, 0).contiguous().numpy())


def save_image(
    image: Image.Image,
    path: Path,
    *,
    settings: dict[str, Any] | None,
    parameters: str | None,
    digital_source: DigitalSource | None = "compositeWithTrainedAlgorithmicMedia",
) -> None:
    """Write a PNG, JPEG or WebP, by the suffix of `path`, whole or not at all.

    settings        comes back from `read_settings`
    parameters      text of `a1111_parameters`
    digital_source  IPTC digital source type for XMP; None leaves it out
    """
    options = metadata_options(path, settings, parameters, digital_source)
    with atomic_path(path) as temporary:
        image.convert("RGB").save(temporary, **options)


def read_settings(path: Path) -> dict[str, Any] | None:
    """The settings that a picture of `save_image` carries, or None.

    Raises: InputError when there is no picture.
    """
    return settings_inside(_decode(path, max_pixels=178_000_000))


def _decode(path: Path, max_pixels: int, content: bytes | None = None, at_least_px: int | None = None) -> Image.Image:
    """Pixels in memory, upright, in the file's own colour mode."""
    if content is None and not os.path.isfile(path):  # unlike Path.is_file it takes names of any length
        why = "this is not a file" if os.path.exists(path) else "there is no such file"
        raise InputError(f"{path}: {why}", "check the path")
    Image.init()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures; the limit here is our own
            source = path if content is None else BytesIO(content)
            with Image.open(source, formats=[name for name in FORMATS if name in Image.OPEN]) as image:
                _check_pixels(path, image.size, max_pixels)
                if at_least_px is not None:
                    image.draft(None, (at_least_px, at_least_px))  # None keeps the mode
                image.load()
                upright = ImageOps.exif_transpose(image)
                upright.info.setdefault("icc_profile", image.info.get("icc_profile"))
                upright.n_frames = getattr(image, "n_frames", 1)  # type: ignore[attr-defined]
                return upright
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: the picture is too large to open safely", "a smaller copy of it") from error
    except UnidentifiedImageError as error:
        empty = path.stat().st_size == 0 if content is None else not content
        why = "the file is empty" if empty else "this is not a picture that can be read"
        raise InputError(f"{path}: {why}", "a PNG, JPEG, WebP, TIFF, GIF, BMP or AVIF file") from error
    except InputError:
        raise
    except Exception as error:  # decoders meet hostile bytes: beside OSError any of a dozen kinds has been seen
        raise InputError(f"{path}: the picture is damaged ({_first_line(error)})", "another copy of it") from error


def _check_pixels(path: Path, size_px: tuple[int, int], max_pixels: int) -> None:
    if size_px[0] * size_px[1] > max_pixels:
        raise InputError(
            f"{path}: {size_px[0]}x{size_px[1]} px is more than the {max_pixels / 1e6:.0f} million that are opened",
            "a smaller copy of it",
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode[0] == "I" or image.mode == "F":
        image = _scaled_to_8_bit(image, path)
    if not image.has_transparency_data:
        return _srgb(image)
    rgba = image.convert("RGBA")
    colour = _srgb(rgba.convert("L" if image.mode[0] == "L" else "RGB"), image.info.get("icc_profile"))
    return Image.composite(colour, Image.new("RGB", image.size, "white"), rgba.getchannel("A"))


def _scaled_to_8_bit(image: Image.Image, path: Path) -> Image.Image:
    """Pillow's own conversion clips at 255, which turns a 16-bit picture white.

    White is 65535 for integers and 1.0 for floats, or the next customary full scale that holds the brightest pixel.
    """
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"{path}: the picture holds values that are not finite", "an 8- or 16-bit copy of it")
    scales = [1.0, 255.0, 65535.0] if image.mode == "F" else [65535.0]
    white = next((scale for scale in scales if values.max() <= scale), values.max())
    grey = Image.fromarray((values.clip(0) * (255 / white)).round().astype(np.uint8))
    grey.info["icc_profile"] = image.info.get("icc_profile")
    return grey


def _srgb(image: Image.Image, profile: bytes | None = None) -> Image.Image:
    """Through the embedded colour profile; without one, or with a broken one, as plain sRGB."""
    profile = profile or image.info.get("icc_profile")
    if image.mode not in ("L", "RGB", "CMYK", "LAB"):
        image = image.convert("RGB")
    try:
        if profile:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, SRGB, outputMode="RGB")
        elif image.mode == "LAB":
            converted = ImageCms.profileToProfile(image, ImageCms.createProfile("LAB"), SRGB, outputMode="RGB")
        else:
            return image.convert("RGB")
    except (ImageCms.PyCMSError, OSError):
        return image.convert("RGB")
    assert converted is not None  # None is for inPlace=True
    return converted
