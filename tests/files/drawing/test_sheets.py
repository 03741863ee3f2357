"""Contact sheets."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFont

from smoothtool.files.drawing.sheets import BACKGROUND, before_after, contact_sheet, shortened

RED, BLUE = Image.new("RGB", (64, 64), (255, 0, 0)), Image.new("RGB", (64, 64), (0, 0, 255))


def count(sheet: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.asarray(sheet) == np.array(colour)).all(-1).sum())


def test_small_pictures_are_enlarged_to_the_cell() -> None:
    sheet = contact_sheet([[RED, BLUE], [BLUE]], cell_px=100)
    assert count(sheet, (255, 0, 0)) == 100**2
    assert count(sheet, (0, 0, 255)) == 2 * 100**2


def test_a_picture_keeps_its_aspect_ratio() -> None:
    assert count(contact_sheet([[RED.resize((40, 20))]], cell_px=100), (255, 0, 0)) == 100 * 50


def test_a_thread_of_a_picture_is_still_one_pixel_wide() -> None:
    assert count(contact_sheet([[RED.resize((1, 4000))]], cell_px=100), (255, 0, 0)) == 100


def test_captions_cover_no_picture() -> None:
    sheet = contact_sheet([[RED, RED]], [["one", "two"]], row_labels=["row"], column_labels=["a", "b"], cell_px=100)
    assert count(sheet, (255, 0, 0)) == 2 * 100**2


def test_captions_are_written() -> None:
    plain, labelled = contact_sheet([[RED]]), contact_sheet([[RED]], [["fox"]])
    dark = [int((np.asarray(sheet.convert("L")) < 60).sum()) for sheet in (plain, labelled)]
    assert dark[0] == 0 < dark[1]


def test_a_long_label_is_shortened_to_its_width() -> None:
    font = ImageFont.load_default(size=14)
    text = shortened("a very long label\nof two lines indeed", 90, font)
    assert text.startswith("a very")
    assert text.endswith("...")
    assert font.getlength(text) <= 90


def test_a_label_that_fits_is_left_alone() -> None:
    assert shortened("fox", 90, ImageFont.load_default(size=14)) == "fox"


def test_before_and_after_stand_side_by_side_enlarged() -> None:
    sheet = np.asarray(before_after(RED, BLUE))
    reds, blues = ((sheet == np.array(colour)).all(-1) for colour in ((255, 0, 0), (0, 0, 255)))
    assert reds.sum() == blues.sum() == 256**2
    assert reds.nonzero()[1].max() < blues.nonzero()[1].min()
    assert tuple(sheet[0, 0]) == BACKGROUND
