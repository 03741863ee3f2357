"""Pictures in and out: any file that holds one becomes upright sRGB; tensors become files with settings inside."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

from smoothtool.errors import InputError, ModelError, first_line
from smoothtool.files.pictures.fitting import Fitted, crop_back, fit_image, to_pixel_values
from smoothtool.files.pictures.formats import FORMATS, unreadable_kind
from smoothtool.files.pictures.provenance import DigitalSource, a1111_parameters, metadata_options, settings_inside
from smoothtool.files.pictures.upright import upright, without_exif
from smoothtool.files.storage.writing import write_picture

if TYPE_CHECKING:
    import torch

__all__ = [
    "Fitted",
    "a1111_parameters",
    "crop_back",
    "fit_image",
    "load_image",
    "read_settings",
    "save_image",
    "to_image",
    "to_pixel_values",
]

ABOUT = {"icc_profile", "exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"}
"""Blocks beside the pixels, by the names that Pillow gives them."""
HEAD_BYTES = 64
MAX_PIXELS = 178_000_000
FLOAT_WHITES = [1.0, 255.0, 65535.0]
ABOVE_WHITE = 16
"""Floats up to this are of a picture whose white is 1, with lights above it, which are cut off: on the scale of 255
that picture would be all but black."""
INTEGER_WHITES = [255, 1023, 4095, 65535]
"""What white may be in 16 bits: instruments and cameras put 10 or 12 bits there, which would be all but black. Dark
photographs of 14 bits and of 16 look alike, and are left as they are."""
BITS_PER_SAMPLE, MAX_SAMPLE_VALUE = 258, 281
SRGB = ImageCms.createProfile("sRGB")


def load_image(
    path: Path, *, content: bytes | None = None, max_pixels: int = MAX_PIXELS, at_least_px: int | None = None
) -> Image.Image:
    """The picture in a file: upright, sRGB, 8-bit RGB, transparency on white, of an animation the first frame.

    content      the file's bytes where it lies inside another; `path` then only names it
    at_least_px  for a thumbnail: sides of a JPEG may be decoded, sooner, at down to an eighth, not below this
    `info["notes"]` lists, for `PictureNotes`, what was left out or guessed: frames, transparency, bits of grey.
    Raises: InputError when there is no file, no picture in it, a broken one, or one above `max_pixels`.
    """
    decoded = _decode(path, max_pixels, content, at_least_px)
    grey, guess = _scaled_to_8_bit(decoded, path)
    alpha = _alpha(grey)
    picture = _rgb(grey, alpha)
    notes = [
        f"the first of {decoded.frames} frames is used" if decoded.frames > 1 else "",
        guess,
        "transparent parts are shown on white" if alpha is not None else "",
    ]
    picture.info = {"notes": [note for note in notes if note]}
    return picture


def load_mask_levels(path: Path, see_through: int) -> Image.Image:
    """What a mask picture shows, as grey levels: how light it is, or how opaque where parts of it are see-through.

    see_through  opacity below which a pixel counts as that
    Raises: InputError as `load_image`.
    """
    grey, _ = _scaled_to_8_bit(_decode(path, MAX_PIXELS), path)
    alpha = _alpha(grey)
    drawn_by_alpha = alpha is not None and _darkest(alpha) < see_through
    return alpha if alpha is not None and drawn_by_alpha else _rgb(grey, alpha).convert("L")


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
    quality: int | None = None,
) -> None:
    """Write a PNG, JPEG, WebP or AVIF, by the suffix of `path`, whole or not at all.

    settings        comes back from `read_settings`
    parameters      text of `a1111_parameters`
    quality         1 to 100, of the kinds that lose some; 95 by default
    digital_source  IPTC digital source type for XMP; None leaves it out
    """
    options = metadata_options(path, settings, parameters, digital_source, quality)
    write_picture(path, image.convert("RGB"), **options)


def read_settings(path: Path) -> dict[str, Any] | None:
    """The settings that a picture of `save_image` carries, or None.

    Raises: InputError when there is no picture.
    """
    return settings_inside(_decode(path, MAX_PIXELS).image)


@dataclass(frozen=True)
class _Decoded:
    """Pixels in memory, upright, in the file's own colour mode.

    white  the level of white where the file says it, else 0
    """

    image: Image.Image
    frames: int
    white: int


def _decode(path: Path, max_pixels: int, content: bytes | None = None, at_least_px: int | None = None) -> _Decoded:
    if content is None and not os.path.isfile(path):  # unlike Path.is_file it takes names of any length
        why = "this is not a file" if os.path.exists(path) else "there is no such file"
        raise InputError(f"{path}: {why}", "check the path")
    Image.init()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures; the limit here is our own
            with _opened(path, content) as image:
                _check_pixels(path, image.size, max_pixels)
                if at_least_px is not None:
                    image.draft(None, (at_least_px, at_least_px))  # None keeps the mode
                image.load()
                frames, icc_profile = _frame_count(image), image.info.get("icc_profile")
                turned = upright(image)
                turned.info.setdefault("icc_profile", icc_profile)
                return _Decoded(turned, frames, _white_of(image))
    except Image.DecompressionBombError as error:
        raise InputError(f"{path}: the picture is too large to open safely", "a smaller copy of it") from error
    except UnidentifiedImageError as error:
        why, hint = _why_unreadable(path, _head(path) if content is None else content[:HEAD_BYTES])
        raise InputError(f"{path}: {why}", hint) from error
    except InputError:
        raise
    except Exception as error:  # decoders meet hostile bytes: beside OSError any of a dozen kinds has been seen
        raise InputError(f"{path}: the picture is damaged ({first_line(error)})", "another copy of it") from error


def _opened(path: Path, content: bytes | None) -> Image.Image:
    """The file as Pillow opens it, its pixels not yet decoded, with the metadata that Pillow can go on with."""
    formats = [name for name in FORMATS if name in Image.OPEN]
    try:
        image = Image.open(path if content is None else BytesIO(content), formats=formats)
    except Exception:
        disowned = without_exif(path if content is None else BytesIO(content))
        if disowned is None:
            raise
        image = Image.open(BytesIO(disowned), formats=formats)
    for key in ABOUT & image.info.keys():
        if not isinstance(image.info[key], (bytes, str)):
            del image.info[key]
    return image


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _why_unreadable(path: Path, head: bytes) -> tuple[str, str]:
    """What is wrong with a file that is no picture, by how it begins, and what to try."""
    if not head:
        return "the file is empty", "another copy of it"
    kind = unreadable_kind(path, head)
    if kind:
        return f"this is a {kind} file, not a picture that can be read", "a PNG or JPEG copy of it"
    return "this is not a picture that can be read", "a PNG, JPEG, WebP, TIFF, GIF, BMP or AVIF file"


def _white_of(image: Image.Image) -> int:
    """The level of white that a TIFF file with less than 16 bits of grey says, or 0."""
    tags = getattr(image, "tag_v2", {})
    try:
        highest, bits = tags.get(MAX_SAMPLE_VALUE), tags.get(BITS_PER_SAMPLE)
        white = highest if highest is not None else 2 ** bits[0] - 1 if bits is not None else 0
        white = white[0] if isinstance(white, tuple) else white
        return int(white) if 255 <= white < 65535 else 0
    except Exception:  # tags of any type
        return 0


def _frame_count(image: Image.Image) -> int:
    """1 too where the frames after the first are damaged: they are not used."""
    try:
        return int(getattr(image, "n_frames", 1))
    except Exception:  # decoders meet hostile bytes here as well
        return 1


def _check_pixels(path: Path, size_px: tuple[int, int], max_pixels: int) -> None:
    if size_px[0] * size_px[1] > max_pixels:
        raise InputError(
            f"{path}: {size_px[0]}x{size_px[1]} px is more than the {max_pixels / 1e6:.0f} million that are opened",
            "a smaller copy of it",
        )


def _alpha(image: Image.Image) -> Image.Image | None:
    """How opaque each pixel is; None where all are."""
    if not image.has_transparency_data:
        return None
    alpha = image.convert("RGBA").getchannel("A")
    return alpha if _darkest(alpha) < 255 else None


def _darkest(channel: Image.Image) -> int:
    """The lowest level of one 8-bit channel."""
    lowest, _ = channel.getextrema()
    assert isinstance(lowest, int)
    return lowest


def _rgb(image: Image.Image, alpha: Image.Image | None) -> Image.Image:
    if not image.has_transparency_data:
        return _srgb(image)
    flat = image.convert("RGBA").convert("L" if image.mode[0] == "L" else "RGB")
    colour = _srgb(flat, image.info.get("icc_profile"))
    return colour if alpha is None else Image.composite(colour, Image.new("RGB", image.size, "white"), alpha)


def _scaled_to_8_bit(decoded: _Decoded, path: Path) -> tuple[Image.Image, str]:
    """Deep grey as 8 bits, and what had to be guessed about it. Pillow's own conversion clips at 255.

    White is what the file says, else the first customary full scale that holds the brightest pixel.
    """
    image = decoded.image
    if image.mode[0] != "I" and image.mode != "F":
        return image, ""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError(f"{path}: the picture holds values that are not finite", "an 8- or 16-bit copy of it")
    whites = FLOAT_WHITES if image.mode == "F" else [decoded.white] if decoded.white else INTEGER_WHITES
    white, guess = _white_guessed(float(values.max()), whites)
    grey = Image.fromarray((values.clip(0, white) * (255 / white)).round().astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):  # one level of grey, told apart from its neighbours in all its bits
        opaque = Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))
        grey = Image.merge("LA", (grey, opaque))
    grey.info["icc_profile"] = image.info.get("icc_profile")
    return grey, guess


def _white_guessed(brightest: float, whites: Sequence[float]) -> tuple[float, str]:
    """(level of white, what a person should know about it)."""
    if whites is FLOAT_WHITES and whites[0] < brightest <= ABOVE_WHITE:
        return whites[0], f"values go up to {brightest:g}, and what is above 1 is shown as white"
    white = next((scale for scale in whites if brightest <= scale), brightest)
    if white not in whites:
        return white, f"values go up to {brightest:g}, which is taken as white"
    guessed = whites is INTEGER_WHITES and brightest > 0 and white < whites[-1]
    bits = round(math.log2(white + 1))
    return white, f"no grey is above {white} of 65535, so they are read as {bits}-bit" if guessed else ""


def _srgb(image: Image.Image, profile: bytes | None = None) -> Image.Image:
    """Through the embedded colour profile; without one, or with a broken one, as plain sRGB."""
    profile = profile or image.info.get("icc_profile")
    profile = profile if isinstance(profile, bytes) else None
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
