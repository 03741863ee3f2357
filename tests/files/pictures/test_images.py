"""Pictures in and out: the bad inputs that people have, and what is written beside the pixels."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from smoothtool.errors import InputError, ModelError, UsageError
from smoothtool.files.pictures.images import load_image, read_settings, save_image, to_image, to_pixel_values


def gradient(width: int = 24, height: int = 16) -> Image.Image:
    rows, columns = np.mgrid[0:height, 0:width]
    levels = np.stack([columns * 255 / (width - 1), rows * 255 / (height - 1), 0 * rows + 90], axis=-1)
    return Image.fromarray(levels.round().astype(np.uint8))


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotated_photo_is_read_upright(tmp_path: Path, orientation: int) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = gradient().transpose(undo[orientation]) if orientation in undo else gradient()
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(pixels(load_image(tmp_path / "a.png")), pixels(gradient()))


def test_a_16_bit_picture_keeps_its_greys_instead_of_turning_white(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(levels * 257).save(tmp_path / "deep.png")
    assert np.array_equal(pixels(load_image(tmp_path / "deep.png"))[..., 1], levels)


def test_a_16_bit_pgm_keeps_its_greys(tmp_path: Path) -> None:
    (tmp_path / "deep.pgm").write_bytes(b"P5 2 1 65535\n" + struct.pack(">2H", 65535, 32896))
    assert pixels(load_image(tmp_path / "deep.pgm"))[0, :, 0].tolist() == [255, 128]


@pytest.mark.parametrize(("bits", "suffix"), [(10, "png"), (12, "png"), (12, "tif"), (12, "pgm"), (8, "tif")])
def test_fewer_bits_of_grey_in_16_are_no_black_picture(tmp_path: Path, bits: int, suffix: str) -> None:
    levels = np.linspace(0, 2**bits - 1, 256).round().astype(np.uint16).reshape(16, 16)
    Image.fromarray(levels).save(tmp_path / f"deep.{suffix}")
    picture = load_image(tmp_path / f"deep.{suffix}")
    assert np.abs(pixels(picture)[..., 1] - np.arange(256).reshape(16, 16)).max() <= 1
    assert f"read as {bits}-bit" in picture.info["notes"][0]


def test_a_tiff_says_itself_how_white_its_white_is(tmp_path: Path) -> None:
    for tag, value in ((281, 4095), (281, 16383)):
        Image.fromarray(np.array([[0, 400]], dtype=np.uint16)).save(tmp_path / "deep.tif", tiffinfo={tag: value})
        picture = load_image(tmp_path / "deep.tif")
        assert (pixels(picture)[0, 1, 0], picture.info["notes"]) == (round(400 * 255 / value), [])


def test_a_black_picture_of_16_bits_stays_black(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 4), dtype=np.uint16)).save(tmp_path / "black.png")
    picture = load_image(tmp_path / "black.png")
    assert (pixels(picture).max(), picture.info["notes"]) == (0, [])


def test_a_float_tiff_in_zero_to_one_is_scaled(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32)).save(tmp_path / "f.tiff")
    assert pixels(load_image(tmp_path / "f.tiff"))[0, :, 0].tolist() == [0, 128, 255]


def test_lights_above_white_do_not_turn_a_float_tiff_black(tmp_path: Path) -> None:
    Image.fromarray(np.array([[-0.5, 0.5, 1.0, 3.0]], dtype=np.float32)).save(tmp_path / "f.tiff")
    picture = load_image(tmp_path / "f.tiff")
    assert pixels(picture)[0, :, 0].tolist() == [0, 128, 255, 255]
    assert picture.info["notes"] == ["values go up to 3, and what is above 1 is shown as white"]


def test_a_white_that_no_depth_has_is_said(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 10**6, 2 * 10**6]], dtype=np.int32)).save(tmp_path / "deep.tiff")
    picture = load_image(tmp_path / "deep.tiff")
    assert pixels(picture)[0, :, 0].tolist() == [0, 128, 255]
    assert picture.info["notes"] == ["values go up to 2e+06, which is taken as white"]


def test_a_transparent_grey_of_16_bits_is_put_on_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[1000, 1001, 60000]], dtype=np.uint16)).save(tmp_path / "g.png", transparency=1000)
    picture = load_image(tmp_path / "g.png")
    assert pixels(picture)[0, :, 0].tolist() == [255, 4, 233]
    assert picture.info["notes"] == ["transparent parts are shown on white"]


def test_a_float_tiff_with_nan_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0.0, np.nan]], dtype=np.float32)).save(tmp_path / "f.tiff")
    with pytest.raises(InputError, match=r"f\.tiff.*finite"):
        load_image(tmp_path / "f.tiff")


def test_a_cmyk_jpeg_comes_out_in_its_colours(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=100)
    red, green, blue = pixels(load_image(tmp_path / "red.jpg"))[8, 8]
    assert red > 240
    assert green < 15
    assert blue < 15


def test_for_a_thumbnail_a_jpeg_is_decoded_smaller_upright_and_never_too_small(tmp_path: Path) -> None:
    Image.new("RGB", (640, 480), "red").save(
        tmp_path / "x.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    )
    assert load_image(tmp_path / "x.jpg").size == (480, 640)
    assert load_image(tmp_path / "x.jpg", at_least_px=60).size == (60, 80)
    assert load_image(tmp_path / "x.jpg", at_least_px=61).size == (120, 160)


def test_a_palette_picture_comes_out_in_its_colours(tmp_path: Path) -> None:
    gradient().quantize(8).save(tmp_path / "p.png")
    assert np.array_equal(pixels(load_image(tmp_path / "p.png")), pixels(gradient().quantize(8).convert("RGB")))


def test_transparency_is_put_on_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    picture.putpixel((1, 0), (200, 0, 0, 128))
    picture.save(tmp_path / "a.png")
    expected = [[255, 255, 255], [255 - 55 * 128 / 255, 255 - 128, 255 - 128]]
    assert np.abs(pixels(load_image(tmp_path / "a.png"))[0] - np.array(expected)).max() <= 1


@pytest.mark.parametrize(("mode", "note"), [("RGBA", True), ("LA", True), ("RGB", False)])
def test_transparency_is_said(tmp_path: Path, mode: str, note: bool) -> None:
    Image.new(mode, (2, 2)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").info["notes"] == ["transparent parts are shown on white"] * note


def test_an_alpha_channel_without_a_transparent_pixel_is_not_worth_a_word(tmp_path: Path) -> None:
    Image.new("RGBA", (2, 2), (255, 0, 0, 255)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").info["notes"] == []


def test_a_transparent_palette_colour_is_put_on_white(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 2), 0)
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.save(tmp_path / "a.gif", transparency=0)
    assert (pixels(load_image(tmp_path / "a.gif")) == 255).all()


def test_an_embedded_profile_is_converted_to_srgb(tmp_path: Path) -> None:
    """Lab (D50) L = 100 is white and L = 0 black whatever Pillow makes of the raw bytes."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    Image.new("LAB", (2, 2), (255, 128, 128)).save(tmp_path / "lab.tiff", icc_profile=profile)
    assert pixels(load_image(tmp_path / "lab.tiff")).min() >= 253


def test_an_rgb_picture_goes_through_its_profile(tmp_path: Path) -> None:
    """sRGB with the red and blue primaries exchanged: what is stored as red looks blue."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exchanged = profile.replace(b"rXYZ", b"????").replace(b"bXYZ", b"rXYZ").replace(b"????", b"bXYZ")
    Image.new("RGB", (2, 2), "red").save(tmp_path / "a.png", icc_profile=exchanged)
    red, _, blue = pixels(load_image(tmp_path / "a.png"))[0, 0]
    assert red < 10 < 245 < blue


def test_an_srgb_profile_changes_nothing(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    gradient().save(tmp_path / "a.png", icc_profile=profile)
    assert np.abs(pixels(load_image(tmp_path / "a.png")) - pixels(gradient())).max() <= 1


def test_a_broken_profile_does_not_stop_a_good_picture(tmp_path: Path) -> None:
    gradient().save(tmp_path / "a.png", icc_profile=b"no profile at all")
    assert np.array_equal(pixels(load_image(tmp_path / "a.png")), pixels(gradient()))


def test_of_an_animation_the_first_frame_is_used_and_said_so(tmp_path: Path) -> None:
    red, blue = Image.new("RGB", (4, 4), "red"), Image.new("RGB", (4, 4), "blue")
    red.save(tmp_path / "a.webp", save_all=True, append_images=[blue], lossless=True)
    picture = load_image(tmp_path / "a.webp")
    assert picture.getpixel((0, 0)) == (255, 0, 0)
    assert picture.info["notes"] == ["the first of 2 frames is used"]


def test_a_picture_with_the_wrong_suffix_is_read_by_its_content(tmp_path: Path) -> None:
    gradient().save(tmp_path / "a.jpg", format="PNG")
    assert np.array_equal(pixels(load_image(tmp_path / "a.jpg")), pixels(gradient()))


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (400, 1)])
def test_the_thinnest_pictures_are_read(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, "red").save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").size == size


def broken_file(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.png"
    gradient(64, 64).save(path)
    whole = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("these are not pixels")
    elif kind == "postscript":
        path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    elif kind == "bomb":
        header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
        chunk = b"IHDR" + header
        path.write_bytes(whole[:8] + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + whole[33:])
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.unlink()
    return path


@pytest.mark.parametrize("name", ["n" * 300 + ".png", "a\0b.png", "loop.png"])
def test_a_name_that_no_file_can_have_is_a_missing_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    with pytest.raises(InputError, match="no such file"):
        load_image(tmp_path / name)


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "postscript", "bomb", "folder", "missing"])
def test_a_bad_file_is_one_sentence_that_names_it(tmp_path: Path, kind: str) -> None:
    path = broken_file(tmp_path, kind)
    with pytest.raises(InputError) as caught:
        load_image(path)
    assert str(path) in caught.value.what
    assert "\n" not in caught.value.what
    assert caught.value.hint


def test_postscript_is_never_handed_to_ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *arguments: pytest.fail("Ghostscript was started"))
    with pytest.raises(InputError, match="not a picture"):
        load_image(broken_file(tmp_path, "postscript"))


def test_a_picture_above_the_limit_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    gradient().save(tmp_path / "a.png")
    with pytest.raises(InputError, match="24x16"):
        load_image(tmp_path / "a.png", max_pixels=24 * 16 - 1)


def test_pixels_to_tensor_and_back_is_exact() -> None:
    every_level = Image.fromarray(np.arange(768, dtype=np.uint16).astype(np.uint8).reshape(16, 16, 3))
    assert np.array_equal(pixels(to_image(to_pixel_values(every_level))), pixels(every_level))


def test_pixel_values_span_minus_one_to_one() -> None:
    picture = Image.fromarray(np.array([[[0, 255, 51]]], dtype=np.uint8))
    assert torch.allclose(to_pixel_values(picture).flatten(), torch.tensor([-1.0, 1.0, -0.6]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixels_that_are_not_finite_never_become_a_picture(value: float) -> None:
    pixel_values = torch.zeros(1, 3, 4, 4)
    pixel_values[0, 1, 2, 3] = value
    with pytest.raises(ModelError):
        to_image(pixel_values)


HOSTILE = {"prompt": 'a <b>"fox"</b> & é 狐 \x00 \ud800', "seed": 7, "scale": 0.5, "images": ["a.png"]}


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_settings_come_back_from_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    save_image(gradient(), tmp_path / f"a{suffix}", settings=HOSTILE, parameters="a fox\nSteps: 5")
    assert read_settings(tmp_path / f"a{suffix}") == HOSTILE


def test_a_picture_of_someone_else_has_no_settings(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("smoothtool", "{broken")
    gradient().save(tmp_path / "a.png", pnginfo=info)
    assert read_settings(tmp_path / "a.png") is None


def test_a_png_carries_the_parameters_text(tmp_path: Path) -> None:
    save_image(gradient(), tmp_path / "a.png", settings=None, parameters="a 狐\nSteps: 5")
    with Image.open(tmp_path / "a.png") as opened:
        assert opened.info["parameters"] == "a 狐\nSteps: 5"


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
def test_jpeg_and_webp_carry_the_parameters_as_a_user_comment(tmp_path: Path, suffix: str) -> None:
    save_image(gradient(), tmp_path / f"a{suffix}", settings=None, parameters="a 狐\nSteps: 5")
    with Image.open(tmp_path / f"a{suffix}") as opened:
        comment = opened.getexif().get_ifd(0x8769)[0x9286]
    assert comment == b"UNICODE\0" + "a 狐\nSteps: 5".encode("utf-16-be")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_the_digital_source_type_is_valid_xml_and_can_be_left_out(tmp_path: Path, suffix: str) -> None:
    from xml.etree import ElementTree

    path = tmp_path / f"a{suffix}"
    save_image(gradient(), path, settings=HOSTILE, parameters=None, digital_source="trainedAlgorithmicMedia")
    with Image.open(path) as opened:
        root = ElementTree.fromstring(opened.info["xmp"].decode().split("?>", 1)[1].rsplit("<?", 1)[0])
    source = root.find(".//{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType")
    assert source is not None
    assert source.text is not None
    assert source.text.endswith("/trainedAlgorithmicMedia")

    save_image(gradient(), path, settings=None, parameters=None, digital_source=None)
    with Image.open(path) as opened:
        assert "xmp" not in opened.info


def test_a_suffix_that_is_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="png, jpg, webp or avif"):
        save_image(gradient(), tmp_path / "a.txt", settings=None, parameters=None)


def test_a_failed_save_leaves_the_old_picture_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    save_image(gradient(), path, settings=None, parameters=None)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="too long"):
        save_image(gradient(), path, settings=None, parameters="x" * 70_000)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
