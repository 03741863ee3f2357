"""Contact sheets: many pictures on one, with captions."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

BACKGROUND, INK = (250, 250, 248), (40, 40, 44)
GAP_PX = 8


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]],
    labels: Sequence[Sequence[str]] | None = None,
    *,
    row_labels: Sequence[str] | None = None,
    column_labels: Sequence[str] | None = None,
    cell_px: int = 128,
    centred: bool = False,
) -> Image.Image:
    """Pictures in rows on a light ground; rows may differ in length.

    labels         a caption under each picture, in the shape of `rows`
    row_labels     captions at the left, one a row
    column_labels  captions on top, one a column
    cell_px        longer side of every picture on the sheet, enlarged or reduced
    centred        shorter rows stand in the middle, not at the left
    """
    cells = [[_scaled(picture, cell_px) for picture in row] for row in rows]
    every = [cell for row in cells for cell in row]
    width, height = max(cell.width for cell in every), max(cell.height for cell in every)
    font = ImageFont.load_default(size=min(24, max(11, cell_px // 9)))
    line = _line_height(font)
    left = GAP_PX + _widest(row_labels, font, 2 * cell_px)
    top = GAP_PX + (line if column_labels else 0)
    step_x, step_y = max(width, cell_px // 2) + GAP_PX, height + GAP_PX + (line if labels else 0)
    columns = max(len(row) for row in cells)
    sheet = Image.new("RGB", (left + columns * step_x, top + len(cells) * step_y), BACKGROUND)
    draw = ImageDraw.Draw(sheet)

    for row_index, row in enumerate(cells):
        y = top + row_index * step_y
        if row_labels:
            _write(draw, row_labels[row_index], GAP_PX, y + (height - line) // 2, left - 2 * GAP_PX, font, centre=False)
        indent = (columns - len(row)) * step_x // 2 if centred else 0
        for column, cell in enumerate(row):
            x = left + indent + column * step_x
            sheet.paste(cell, (x + (step_x - GAP_PX - cell.width) // 2, y + (height - cell.height) // 2))
            if labels:
                _write(draw, labels[row_index][column], x, y + height, step_x - GAP_PX, font)
    for column, label in enumerate((column_labels or ())[:columns]):
        _write(draw, label, left + column * step_x, GAP_PX // 2, step_x - GAP_PX, font)
    return sheet


def before_after(before: Image.Image, after: Image.Image, labels: tuple[str, str] = ("before", "after")) -> Image.Image:
    """Two pictures side by side at their own size, small ones enlarged to 256 px."""
    return contact_sheet([[before, after]], [labels], cell_px=max(256, *before.size, *after.size))


def _scaled(picture: Image.Image, cell_px: int) -> Image.Image:
    scale = cell_px / max(picture.size)
    size_px = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size_px, Image.Resampling.LANCZOS)


def _line_height(font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> int:
    return round(font.getbbox("Ag")[3] * 1.35)


def _widest(labels: Sequence[str] | None, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, limit_px: int) -> int:
    """Room for a column of labels and the gap beside it; 0 without labels."""
    return min(limit_px, max(round(font.getlength(label)) + 1 for label in labels)) + GAP_PX if labels else 0


def _write(
    draw: ImageDraw.ImageDraw,
    text: str,
    x: int,
    y: int,
    width_px: int,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    centre: bool = True,
) -> None:
    shown = shortened(text, width_px, font)
    indent = (width_px - font.getlength(shown)) / 2 if centre else 0
    draw.text((x + indent, y), shown, fill=INK, font=font)


def shortened(text: str, width_px: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """One line that is at most `width_px` wide, its end replaced by dots where it was longer."""
    line = " ".join(text.split())
    if font.getlength(line) <= width_px:
        return line
    while line and font.getlength(line + "...") > width_px:
        line = line[:-1]
    return line.rstrip() + "..."
