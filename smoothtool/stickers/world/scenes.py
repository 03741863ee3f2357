"""The sticker world: scenes, their captions, and their pictures.

A `Scene` is data, so it can be drawn again with one thing changed: the true edited picture exists.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from smoothtool.stickers.world.icons import CONCEPTS, STYLES, SYNONYMS, icon

SIZE_PX = 64
COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250), "black": (18, 18, 20), "gray": (140, 140, 142), "red": (214, 40, 40),
    "orange": (247, 140, 30), "yellow": (252, 220, 60), "green": (56, 160, 70), "blue": (40, 80, 200),
    "sky blue": (135, 205, 245), "purple": (130, 60, 170), "pink": (250, 165, 195), "brown": (120, 75, 40),
}  # fmt: skip


@dataclass(frozen=True)
class Item:
    """One icon: centre and longest side in pixels of the 64 px picture, rotation in degrees."""

    concept: str
    x_px: float
    y_px: float
    size_px: float
    angle_deg: float = 0.0


@dataclass(frozen=True)
class Scene:
    """One or two items of one style on a plain or softly graded background of a named colour."""

    style: str
    colour: str
    items: tuple[Item, ...]
    shade: tuple[float, float] = (0.0, 0.0)  # lightness change at the two ends of the gradient, -1 to 1
    gradient_deg: float = 90.0

    def with_colour(self, colour: str) -> Scene:
        return replace(self, colour=colour)

    def with_style(self, style: str) -> Scene:
        return replace(self, style=style)

    def with_concept(self, index: int, concept: str) -> Scene:
        items = list(self.items)
        items[index] = replace(items[index], concept=concept)
        return replace(self, items=tuple(items))

    def moved(self, index: int, dx_px: float, dy_px: float) -> Scene:
        items = list(self.items)
        items[index] = replace(items[index], x_px=items[index].x_px + dx_px, y_px=items[index].y_px + dy_px)
        return replace(self, items=tuple(items))


def is_held_out(concept: str, style: str, colour: str) -> bool:
    """True for a fixed tenth of the (concept, style, colour) combinations: never trained on."""
    concepts, colours = list(CONCEPTS), list(COLOURS)
    return (3 * concepts.index(concept) + 7 * STYLES.index(style) + colours.index(colour)) % 10 == 0


def scene_is_held_out(scene: Scene) -> bool:
    return any(is_held_out(item.concept, scene.style, scene.colour) for item in scene.items)


def sample_scene(rng: Random, *, held_out: bool = False, items: int | None = None) -> Scene:
    """A random scene. Held-out scenes contain a held-out combination, training scenes never do."""
    count = items or (1 if rng.random() < 0.7 else 2)
    shade = rng.uniform(-0.12, 0.12)
    ends = (shade, shade) if rng.random() < 0.6 else (shade - rng.uniform(0.05, 0.2), shade + rng.uniform(0.05, 0.2))
    while True:
        concepts = rng.sample(list(CONCEPTS), count)
        scene = Scene(rng.choice(STYLES), rng.choice(list(COLOURS)), _place(rng, concepts), ends, rng.uniform(0, 360))
        if scene_is_held_out(scene) == held_out:
            return scene


def _place(rng: Random, concepts: list[str]) -> tuple[Item, ...]:
    """One item of 36 to 60 px anywhere, or items of 28 to 32 px each in its half; captions name the left one first.

    These are sizes a person can read: nine latents wide and more, seven for two. A tenth of the single items are of the
    second kind, so that an item can be added beside them.
    """
    if len(concepts) == 1 and rng.random() < 0.9:
        size = rng.uniform(36, 60)
        x, y = (rng.uniform(size / 2, SIZE_PX - size / 2) for _ in range(2))
        return (Item(concepts[0], x, y, size, rng.uniform(-6, 6)),)
    first_half, placed = (rng.randrange(2) if len(concepts) == 1 else 0), []
    for half, concept in enumerate(concepts, start=first_half):
        size = rng.uniform(28, 32)
        x = rng.uniform(size / 2, 32 - size / 2) + 32 * half
        placed.append(Item(concept, x, rng.uniform(size / 2, SIZE_PX - size / 2), size, rng.uniform(-6, 6)))
    return tuple(placed)


def caption(scene: Scene, rng: Random | None = None) -> str:
    """A caption of the scene. Without `rng` the plain one: `a 3d fox on a blue background`."""
    if rng is None:
        things = " and ".join(f"{_article(_name(scene, i))}{_name(scene, i)}" for i in range(len(scene.items)))
        first = _name(scene, 0)
        things = f"{_article(scene.style)}{scene.style} {things.removeprefix(_article(first))}"
        return f"{things} on {_article(scene.colour)}{scene.colour} background"
    names = []
    for item in scene.items:
        synonyms = SYNONYMS.get(item.concept, ())
        names.append(rng.choice(synonyms) if synonyms and rng.random() < 0.25 else item.concept)
    style = "" if rng.random() < 0.08 else f"{scene.style} "
    articles = rng.random() < 0.75
    words = [f"{style if n == 0 else ''}{name}" for n, name in enumerate(names)]
    things = " and ".join(f"{_article(word) if articles else ''}{word}" for word in words)
    if rng.random() < 0.1:
        kind = rng.choice(("picture", "sticker", "drawing", "photo"))
        things = f"a {kind} of {things}"
    if rng.random() < 0.12:
        return things
    background = f"{scene.colour} background"
    where = rng.choice(("on", "on", "on", "in front of", "over"))
    return f"{things}, {background}" if rng.random() < 0.2 else f"{things} {where} {_article(background)}{background}"


def _name(scene: Scene, index: int) -> str:
    return scene.items[index].concept


def _article(phrase: str) -> str:
    if phrase.split()[-1] in ("cherries", "grapes"):
        return ""
    return "an " if phrase[0] in "aeiou" else "a "


def render(scene: Scene, icons: Path) -> Image.Image:
    """The scene as a 64 x 64 RGB picture."""
    picture = _background(scene)
    for item in scene.items:
        sticker, corner = _sticker(scene, item, icons)
        picture.paste(sticker, corner, sticker)
    return picture


def item_mask(scene: Scene, index: int, icons: Path) -> Image.Image:
    """Where the item is: an 8-bit mask, 255 inside."""
    mask = Image.new("L", (SIZE_PX, SIZE_PX))
    sticker, corner = _sticker(scene, scene.items[index], icons)
    mask.paste(255, corner, sticker.getchannel("A"))
    return mask


def _sticker(scene: Scene, item: Item, icons: Path) -> tuple[Image.Image, tuple[int, int]]:
    source = icon(icons, scene.style, item.concept)
    scale = item.size_px / max(source.size)
    size = (max(1, round(source.width * scale)), max(1, round(source.height * scale)))
    # premultiplied resampling keeps dark fringes away from transparent edges
    sticker = source.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")
    sticker = sticker.convert("RGBa").rotate(item.angle_deg, Image.Resampling.BICUBIC, expand=True).convert("RGBA")
    return sticker, (round(item.x_px - sticker.width / 2), round(item.y_px - sticker.height / 2))


def _background(scene: Scene) -> Image.Image:
    angle = np.deg2rad(scene.gradient_deg)
    rows, columns = np.mgrid[0:SIZE_PX, 0:SIZE_PX] / (SIZE_PX - 1) - 0.5
    along = np.clip(0.5 + columns * np.cos(angle) + rows * np.sin(angle), 0, 1)
    shade = (scene.shade[0] + (scene.shade[1] - scene.shade[0]) * along)[..., None]
    colour = np.array(COLOURS[scene.colour], dtype=np.float64)
    lighter, darker = colour + (255 - colour) * shade, colour * (1 + shade)
    return Image.fromarray(np.where(shade > 0, lighter, darker).clip(0, 255).round().astype(np.uint8))
