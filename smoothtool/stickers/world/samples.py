"""The sample pictures that ship with smoothtool: `samples:fox` and the others, with captions in metadata.jsonl."""

from __future__ import annotations

import json
from pathlib import Path

from smoothtool.files.storage.writing import write_picture, write_text_atomic
from smoothtool.stickers.world.scenes import Item, Scene, caption, render

FOLDER = Path(__file__).parents[2] / "weights" / "samples"
SAMPLES: dict[str, Scene] = {
    "fox": Scene("3d", "sky blue", (Item("fox", 32, 33, 48),)),
    "cat": Scene("3d", "green", (Item("cat", 32, 33, 48),)),
    "dog": Scene("3d", "yellow", (Item("dog", 32, 33, 48),)),
    "panda": Scene("3d", "pink", (Item("panda", 32, 33, 48),)),
    "lion": Scene("cartoon", "purple", (Item("lion", 32, 32, 50),)),
    "apple": Scene("3d", "white", (Item("apple", 32, 32, 46),)),
    "pear": Scene("3d", "white", (Item("pear", 32, 32, 48),)),
    "banana": Scene("flat", "blue", (Item("banana", 18, 34, 29),)),
    "rose": Scene("3d", "black", (Item("rose", 32, 32, 52),)),
    "sunflower": Scene("3d", "sky blue", (Item("sunflower", 32, 32, 52),)),
    "cake": Scene("3d", "pink", (Item("cake", 32, 33, 46),)),
    "balloon": Scene("cartoon", "sky blue", (Item("balloon", 18, 30, 32),)),
}


def draw_samples(icons: Path, folder: Path = FOLDER) -> None:
    """Draw them all anew."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, scene in SAMPLES.items():
        write_picture(folder / f"{name}.png", render(scene, icons), optimize=True)
        lines.append(json.dumps({"file_name": f"{name}.png", "text": caption(scene)}))
    write_text_atomic(folder / "metadata.jsonl", "\n".join(lines) + "\n")
