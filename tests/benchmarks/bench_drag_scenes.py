"""Does the item arrive? Held-out sticker scenes with one item to be moved by a known vector.

    python tests/benchmarks/bench_drag_scenes.py --icons FOLDER --output FOLDER [--count 30] [--lora-steps 0 80]
        [--shard 0/2]

Every scene is dragged by every method with one point, from the item's middle (the pixel of it next to that: a donut has
none there) to where it should be, and with a mask of the item at both places; warp gets no mask, which would say what
moves, and finds the item by itself. The item is then found by matching its own picture (masked squared error) against
the result, and against the picture as the model gives it back undragged; distances are from there to the true place.
The methods share a scene's LoRA, so its seconds stand apart. Leaves a line in scenes.jsonl per result, which a second
run goes on from, the pictures, and a sheet per LoRA setting. Shards 0/2 and 1/2 are two processes on one folder.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter

from smoothtool.commands.drag.picture import DragRequest, drag_one
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.commands.shared.session import open_session
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.files.drawing.sheets import contact_sheet
from smoothtool.files.drawing.trajectory import draw_points
from smoothtool.files.lists.points import points_from_numbers
from smoothtool.files.storage.records import append_record, read_records
from smoothtool.jobs import make_job
from smoothtool.stickers.world.scenes import SIZE_PX, Scene, caption, item_mask, render, sample_scene
from smoothtool.types import silent

METHODS = ("dragdiffusion", "gooddrag", "fastdrag", "warp")
ARRIVED_PX = 4
SCENE = {"image": "scene", "point": ["0,0:1,1"], "seed": 0}
"""Pictures and points are handed over in memory: the job's own have no part."""


@dataclass(frozen=True)
class Move:
    """A scene and the vector its item goes, in pixels."""

    scene: Scene
    dx: int
    dy: int

    @property
    def moved(self) -> Scene:
        return self.scene.moved(0, self.dx, self.dy)


def moves(count: int) -> list[Move]:
    """One item of at most 40 px, moved by 10 to 20 px, inside the picture before and after."""
    found, rng = [], Random(7_000_000)
    while len(found) < count:
        scene = sample_scene(rng, held_out=True, items=1)
        item, angle, length = scene.items[0], rng.uniform(0, 2 * math.pi), rng.uniform(10, 20)
        dx, dy = round(length * math.cos(angle)), round(length * math.sin(angle))
        half = item.size_px / 2
        inside = all(half <= place <= SIZE_PX - half for place in (item.x_px + dx, item.y_px + dy))
        if inside and item.size_px <= 40:
            found.append(Move(scene, dx, dy))
    return found


def locate(picture: Image.Image, move: Move, icons: Path) -> tuple[int, int]:
    """How far (x, y) the item has gone: least mean squared error of its pixels, over all shifts that fit."""
    mask = np.asarray(item_mask(move.scene, 0, icons)) / 255.0
    rows, cols = np.nonzero(mask > 0.5)
    top, bottom, left, right = rows.min(), rows.max() + 1, cols.min(), cols.max() + 1
    weight = torch.from_numpy(mask[top:bottom, left:right])[None, None]
    template = _tensor(render(move.scene, icons))[..., top:bottom, left:right]
    image = _tensor(picture)
    squares = F.conv2d(image.square().sum(1, keepdim=True), weight)
    cross = F.conv2d(image, template * weight)
    error = (squares - 2 * cross)[0, 0]
    row, col = divmod(int(error.argmin()), error.shape[1])
    return col - int(left), row - int(top)


def _tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(picture.convert("RGB")) / 255.0).permute(2, 0, 1)[None]


def handle(scene: Scene, icons: Path) -> tuple[int, int]:
    """(x, y) of the item's own pixel that is next to its middle."""
    rows, cols = np.nonzero(np.asarray(item_mask(scene, 0, icons)) > 127)
    nearest = np.argmin((cols - scene.items[0].x_px) ** 2 + (rows - scene.items[0].y_px) ** 2)
    return int(cols[nearest]), int(rows[nearest])


def request(move: Move, icons: Path, method: str = "") -> DragRequest:
    x, y = handle(move.scene, icons)
    masks = [item_mask(scene, 0, icons).filter(ImageFilter.MaxFilter(5)) for scene in (move.scene, move.moved)]
    painted = np.maximum(*(np.asarray(mask) for mask in masks)) > 127
    points = points_from_numbers([[x, y, x + move.dx, y + move.dy]])
    return DragRequest(render(move.scene, icons), points, None if method == "warp" else painted, caption(move.scene))


def measure(model: DiffusionModel, move: Move, icons: Path, method: str, lora_steps: int) -> tuple[Image.Image, dict]:
    job = make_job("drag", {**SCENE, "method": method, "lora_steps": lora_steps})
    calls = model.counter.calls
    dragged = drag_one(model, request(move, icons, method), job, silent)
    before, after = (
        math.dist((move.dx, move.dy), locate(picture, move, icons)) for picture in (dragged.before, dragged.after)
    )
    truth = _tensor(render(move.moved, icons))
    return dragged.after, {
        "caption": caption(move.scene),
        "asked_px": math.hypot(move.dx, move.dy),
        "before_px": before,
        "left_px": after,
        "tracked_arrived": dragged.arrived,
        "iterations": len(dragged.path),
        "psnr_to_truth_db": float(-10 * (_tensor(dragged.after) - truth).square().mean().log10()),
        "unet_calls": model.counter.calls - calls,
        **{f"{name}_seconds": s for name, s in dragged.seconds.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--icons", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", default="stickers")
    parser.add_argument("--count", type=int, default=30)
    parser.add_argument("--lora-steps", type=int, nargs="+", default=[0, 80])
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--shard", default="0/1", help="INDEX/COUNT of the scenes")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    chosen, (shard, shards) = moves(options.count), map(int, options.shard.split("/"))
    model = open_session(make_job("drag", {**SCENE, "model": options.model}), silent, ModelPool())
    for lora_steps in options.lora_steps:
        for index in range(shard, len(chosen), shards):
            drag_scene(model, index, chosen[index], lora_steps, options)
    rows = results(options.output)
    for lora_steps in options.lora_steps:
        for method in options.methods:
            print(summary(rows, method, lora_steps))
        sheet(chosen, lora_steps, options)


def results(folder: Path) -> list[dict]:
    """What is there already."""
    return read_records(folder, "scenes.jsonl", {"scene": int, "method": str, "lora_steps": int})


def drag_scene(model: DiffusionModel, index: int, move: Move, lora_steps: int, options: argparse.Namespace) -> None:
    """By every method that has no record yet; the LoRA is fitted for the first and remembered."""
    rows = results(options.output)
    done = {(row["scene"], row["method"], row["lora_steps"]) for row in rows}
    for method in options.methods:
        if (index, method, lora_steps) not in done:
            picture, figures = measure(model, move, options.icons, method, lora_steps)
            picture.save(options.output / f"{method}-lora-{lora_steps}-{index:03d}.png")
            head = {"scene": index, "method": method, "lora_steps": lora_steps}
            append_record(options.output / "scenes.jsonl", head | figures)


def sheet(chosen: list[Move], lora_steps: int, options: argparse.Namespace) -> None:
    """Of the scenes that every method has dragged."""
    shown = []
    for index, move in enumerate(chosen):
        places = [options.output / f"{method}-lora-{lora_steps}-{index:03d}.png" for method in options.methods]
        if all(place.is_file() for place in places):
            shown.append([*asked_and_true(move, options.icons), *map(Image.open, places)])
    if shown:
        columns = ["asked", "truth", *options.methods]
        picture = contact_sheet(shown, column_labels=columns, cell_px=96)
        picture.save(options.output / f"sheet-lora-{lora_steps}.png")


def asked_and_true(move: Move, icons: Path) -> list[Image.Image]:
    points = request(move, icons).points
    return [
        draw_points(render(move.scene, icons), points.handles_xy_px, points.targets_xy_px),
        render(move.moved, icons),
    ]


def summary(rows: list[dict], method: str, lora_steps: int) -> str:
    mine = [row for row in rows if (row["method"], row["lora_steps"]) == (method, lora_steps)]

    def mean(name: str) -> float:
        return sum(row[name] for row in mine) / max(1, len(mine))

    arrived = sum(row["left_px"] <= ARRIVED_PX for row in mine)
    return (
        f"{method:14} LoRA {lora_steps:3}   asked {mean('asked_px'):5.1f} px   before {mean('before_px'):5.1f} px   "
        f"left {mean('left_px'):5.1f} px   arrived {arrived}/{len(mine)}   "
        f"PSNR to truth {mean('psnr_to_truth_db'):5.2f} dB   {mean('unet_calls'):5.0f} UNet calls   "
        f"{mean('invert_seconds'):6.2f} s inverting {mean('drag_seconds'):6.2f} s dragging "
        f"{mean('sample_seconds'):6.2f} s sampling"
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache:
        os.environ.setdefault("SMOOTHTOOL_CACHE", cache)
        sys.exit(main())
