"""What is true of many pictures is said once."""

from __future__ import annotations

from PIL import Image

from smoothtool.files.pictures.notes import PictureNotes


def test_a_note_names_the_first_picture_and_counts_the_others() -> None:
    picture = Image.new("RGB", (1, 1))
    picture.info = {"notes": ["transparent parts are shown on white"]}
    notes = PictureNotes()
    for name in ("a.png", "b.png", "b.png", "c.png"):
        assert notes.add(name, picture) is picture
    picture.info = {"notes": ["the first of 2 frames is used"]}
    notes.add("d.gif", picture)
    notes.add("e.png", Image.new("RGB", (1, 1)))
    assert notes.lines() == [
        "a.png and 2 others: transparent parts are shown on white",
        "d.gif: the first of 2 frames is used",
    ]
