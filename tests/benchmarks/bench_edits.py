"""Every inversion and editing method on held-out sticker scenes whose true edited picture can be drawn.

    python tests/benchmarks/bench_edits.py --icons WORK/icons --out results/edits.jsonl [--scenes 60] [--lora PATH]

WORK is the folder of `python -m smoothtool.weights.making icons --work WORK`. A quarter of the scenes each replaces an
item, adds one, changes the style, changes the background. Figures: PSNR and SSIM to the source where the true edit
equals the source, PSNR to the true edit elsewhere, CLIP score of the target prompt, UNet calls, seconds. Every result
is a line of the file as soon as it is there, and a second run goes on; --tables prints what is there.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

from smoothtool.commands.edit_methods import EDITS, Source
from smoothtool.commands.inverting import Inverted, compute_inversion
from smoothtool.diffusion.lora import load_lora
from smoothtool.diffusion.model import DiffusionModel, load_model
from smoothtool.files.fitting import Fitted, to_pixel_values
from smoothtool.files.images import to_image
from smoothtool.files.records import append_record, read_records
from smoothtool.files.sheets import contact_sheet
from smoothtool.files.tables import markdown_table
from smoothtool.jobs import EDIT_INVERSIONS, INVERSION_NAMES, make_job
from smoothtool.metrics.clip_score import Clip, load_clip
from smoothtool.metrics.reconstruction import psnr_db, ssim
from smoothtool.types import silent
from smoothtool.weights.making.icons import CONCEPTS, STYLES
from smoothtool.weights.making.scenes import COLOURS, Scene, caption, render, sample_scene
from smoothtool.weights.places import STICKERS

SEED = 7_000_000_000
UNCHANGED = 0.06  # of the range -1 to 1: eight grey levels, more than the VAE changes a plain place
VARIANTS = [
    *(("switch", name) for name in INVERSION_NAMES),
    ("p2p", "nti"),
    ("p2p", "direct"),
    ("masactrl", "direct"),
    ("pnp", "ddim"),
    ("pix2pix-zero", "regularised"),
    ("sdedit", "none"),
    ("cycle", "none"),
    ("disentangle", "nti"),
]


@dataclass(frozen=True)
class Task:
    """A source scene and its true edit."""

    index: int
    kind: str
    source: Scene
    target: Scene


def tasks(count: int) -> Iterator[Task]:
    """The same tasks every time; the source holds a combination that was never trained on."""
    for index in range(count):
        rng, kind = Random(SEED + index), list(CHANGES)[index % len(CHANGES)]
        yield Task(index, kind, *CHANGES[kind](rng))


def _replace(rng: Random) -> tuple[Scene, Scene]:
    scene = sample_scene(rng, held_out=True, items=1)
    return scene, scene.with_concept(0, _other(rng, CONCEPTS, scene.items[0].concept))


def _add(rng: Random) -> tuple[Scene, Scene]:
    scene = sample_scene(rng, held_out=True, items=2)
    return replace(scene, items=scene.items[:1]), scene


def _style(rng: Random) -> tuple[Scene, Scene]:
    scene = sample_scene(rng, held_out=True, items=1)
    return scene, scene.with_style(_other(rng, STYLES, scene.style))


def _background(rng: Random) -> tuple[Scene, Scene]:
    scene = sample_scene(rng, held_out=True, items=1)
    return scene, scene.with_colour(_other(rng, COLOURS, scene.colour))


def _other(rng: Random, names: Iterable[str], than: str) -> str:
    return rng.choice([name for name in names if name != than])


CHANGES: dict[str, Callable[[Random], tuple[Scene, Scene]]] = {
    "replace": _replace, "add": _add, "style": _style, "background": _background
}  # fmt: skip
"""Kind of edit -> (source scene, true edit)."""


def changed_region(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Where the true edit differs from the source, grown by 2 px: [1, 1, H, W] bool."""
    differs = ((before - after).abs().amax(dim=1, keepdim=True) > UNCHANGED).float()
    return F.max_pool2d(differs, 5, stride=1, padding=2) > 0


def figures(edited: torch.Tensor, before: torch.Tensor, truth: torch.Tensor, prompt: str, clip: Clip) -> dict[str, Any]:
    region = changed_region(before, truth)

    def masked_psnr(a: torch.Tensor, b: torch.Tensor, mask: torch.Tensor) -> float:
        error = (a - b).square().mean(dim=1, keepdim=True)[mask].mean()
        return float(10 * torch.log10(4 / error.clamp(min=1e-10)))

    return {
        "outside_psnr_db": masked_psnr(edited, before, ~region) if bool((~region).any()) else None,
        "outside_ssim": float(ssim(torch.where(region, before, edited), before)),
        "inside_to_truth_psnr_db": masked_psnr(edited, truth, region),
        "clip_score": float(clip.score(edited, [prompt])[0]),
    }


def edit_all(
    model: DiffusionModel, clip: Clip, task: Task, wanted: list[tuple[str, str]], options: argparse.Namespace
) -> Iterator[tuple[dict[str, Any], Image.Image]]:
    """(row, picture) for every variant that is still wanted; inversions are shared between them."""
    before, truth = (to_pixel_values(render(scene, options.icons)) for scene in (task.source, task.target))
    prompts = caption(task.source), caption(task.target)
    picture = Fitted(before, (before.shape[-1], before.shape[-2]), (before.shape[-1], before.shape[-2]))
    inversions: dict[tuple[str, str], tuple[Inverted, float]] = {}
    for method, name in wanted:
        chosen = name if name in EDIT_INVERSIONS[method][0] else "auto"
        settings = {"image": "drawn", "src": prompts[0], "trg": prompts[1], "method": method, "inversion": chosen}
        job = make_job("edit", {**settings, "seed": 0, "steps": options.steps, "clip": options.model / "clip"})
        prompt = "" if method == "pnp" else prompts[0]
        if name != "none" and (name, prompt) not in inversions:
            started = time.perf_counter()
            inverting = job.model_copy(update={"inversion": name})
            inversion = compute_inversion(model, [picture], [prompt], inverting, silent)
            inversions[name, prompt] = Inverted(inversion, (picture,), {}), time.perf_counter() - started
        inverted, seconds = inversions.get((name, prompt), (None, 0.0))
        calls, started = model.counter.calls, time.perf_counter()
        latents = EDITS[method](Source(model, job, silent, picture, inverted), prompts[1], 0.8)
        row = {"task": task.index, "kind": task.kind, "method": method, "inversion": name}
        row |= {"edit_calls": model.counter.calls - calls, "edit_seconds": time.perf_counter() - started}
        edited = model.decode_latents(latents)
        row |= figures(edited, before, truth, prompts[1], clip)
        if inverted is not None:
            given_back = model.decode_latents(inverted.inversion.reconstruction)
            row |= {"inversion_calls": inverted.inversion.unet_calls, "inversion_seconds": seconds}
            row |= {"reconstruction_psnr_db": float(psnr_db(before, given_back))}
            row |= {"vae_psnr_db": float(psnr_db(before, model.decode_latents(inverted.inversion.trajectory.image)))}
        yield row, to_image(edited)


def table(
    rows: list[dict[str, Any]], keys: tuple[str, ...], groups: list[tuple[str, ...]], heads: tuple[str, ...]
) -> str:
    lines = []
    for group in groups:
        chosen = [row for row in rows if tuple(row[head] for head in heads) == group]
        if chosen:
            means = {key: _mean([row.get(key) for row in chosen]) for key in keys}
            lines.append({**dict(zip(heads, group, strict=True)), "n": len(chosen), **means})
    return markdown_table(lines)


def _mean(values: list[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return fmean(there) if there else None


def print_tables(rows: list[dict[str, Any]]) -> None:
    quality = ("outside_psnr_db", "outside_ssim", "inside_to_truth_psnr_db", "clip_score")
    cost = ("inversion_calls", "inversion_seconds", "edit_calls", "edit_seconds")
    print(table(rows, (*quality, *cost), VARIANTS, ("method", "inversion")))
    kinds = [(kind, *variant) for kind in CHANGES for variant in VARIANTS]
    print(table(rows, quality, kinds, ("kind", "method", "inversion")))
    switch = [row for row in rows if row["method"] == "switch"]
    names = [(name,) for name in INVERSION_NAMES]
    given_back = ("reconstruction_psnr_db", "vae_psnr_db", "inversion_calls", "inversion_seconds")
    print(table(switch, given_back, names, ("inversion",)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--icons", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=STICKERS)
    parser.add_argument("--lora", type=Path)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--skip", nargs="*", default=[], choices=list(EDITS), help="methods to leave out")
    parser.add_argument("--tables", action="store_true")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows = read_records(options.out.parent, options.out.name)
    if not options.tables:
        model, clip = load_model(options.model, "stickers", device=options.device), load_clip(options.model / "clip")
        if options.lora:
            load_lora(model, options.lora)
        rows += run(model, clip, options, {(row["task"], row["method"], row["inversion"]) for row in rows})
    print_tables(rows)


def run(model: DiffusionModel, clip: Clip, options: argparse.Namespace, done: set[Any]) -> list[dict[str, Any]]:
    rows = []
    for task in tasks(options.scenes):
        wanted = [
            variant for variant in VARIANTS if variant[0] not in options.skip and (task.index, *variant) not in done
        ]
        pictures = [render(scene, options.icons) for scene in (task.source, task.target)]
        for row, picture in edit_all(model, clip, task, wanted, options):
            append_record(options.out, row)
            rows.append(row)
            pictures.append(picture)
        if wanted:
            labels = ["source", "true edit", *(f"{method} {name}" for method, name in wanted)]
            sheet = contact_sheet([pictures[:9], pictures[9:]], [labels[:9], labels[9:]])
            sheet.save(options.out.with_name(f"{options.out.stem}-{task.index:03d}.png"))
    return rows


if __name__ == "__main__":
    main()
