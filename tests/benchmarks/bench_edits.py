"""Every inversion and editing method on held-out sticker scenes whose true edited picture can be drawn.

    python tests/benchmarks/bench_edits.py --icons WORK/icons --out results/edits.jsonl [--scenes 60] [--lora PATH]
        [--steps 50] [--shard 0/2] [--only flowedit/none switch/nti] [--set guidance=3 null_anchor=1]
        [--half find] [--beside switch/direct] [--winners]

WORK is the folder of `python -m smoothtool.stickers.making icons --work WORK`. A quarter of the scenes each replaces an
item, adds one, changes the style, changes the background. Figures: PSNR and SSIM to the source where the true edit
equals the source, PSNR to the true edit elsewhere, CLIP score of the target prompt, UNet calls, seconds. "no edit" and
"true edit" are the two pictures through the VAE: what doing nothing earns, and the most that can be had. The
reconstruction of `npi` is DDIM's at guidance 1. Every result is a line of the file as soon as it is there, and a second
run goes on. --set gives options of `edit` to what runs now; a file may hold many settings side by side. --half find and
--half report are two halves of the scenes: find settings on the first, tell figures of the second.

--tables prints what is there; --against OTHER.jsonl also what changes from there to here on the same scenes, --beside
what every variant has more than that one, both with 95 % intervals; --winners the table of `--method auto`. Shards 0/2
and 1/2 are two processes on one file.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.nn.functional as F
from edit_results import BOUNDS, NOTHING, print_against, print_beside, print_tables, variant_of, winner_lines
from PIL import Image

from smoothtool.commands.edit.methods import EDITS, Source
from smoothtool.commands.invert.cached import Inverted, compute_inversion
from smoothtool.diffusion.loading import load_model
from smoothtool.diffusion.lora import load_lora
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import SmoothtoolError
from smoothtool.files.drawing.sheets import contact_sheet
from smoothtool.files.pictures.fitting import Fitted, to_pixel_values
from smoothtool.files.pictures.images import to_image
from smoothtool.files.storage.records import append_record, read_records
from smoothtool.jobs import DEFAULT_RATIO, EDIT_INVERSIONS, INVERSION_NAMES, EditJob, make_job, parse_setting
from smoothtool.metrics.clip_score import Clip, load_clip
from smoothtool.metrics.reconstruction import mse, psnr_db, ssim
from smoothtool.stickers.world.icons import CONCEPTS, STYLES
from smoothtool.stickers.world.scenes import COLOURS, Scene, caption, render, sample_scene, scene_is_held_out
from smoothtool.types import silent
from smoothtool.weights.models import STICKERS

SEED = 7_000_000_000
UNCHANGED = 0.06  # of the range -1 to 1: eight grey levels, more than the VAE changes a plain place
HALVES = ("find", "report")
VARIANTS = [
    *((bound, "none") for bound in BOUNDS),
    *(("switch", name) for name in INVERSION_NAMES),
    ("p2p", "nti"),
    ("p2p", "direct"),
    ("p2p", "spdinv"),
    ("p2p", "dci"),
    ("masactrl", "direct"),
    ("pnp", "ddim"),
    ("pix2pix-zero", "regularised"),
    ("sdedit", "none"),
    ("cycle", "none"),
    ("flowedit", "none"),
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
    while True:
        scene = sample_scene(rng, held_out=True, items=2)
        source = replace(scene, items=scene.items[:1])
        if scene_is_held_out(source):
            return source, scene


def _style(rng: Random) -> tuple[Scene, Scene]:
    scene = sample_scene(rng, held_out=True, items=1)
    return scene, scene.with_style(_other(rng, STYLES, scene.style))


def _background(rng: Random) -> tuple[Scene, Scene]:
    scene = sample_scene(rng, held_out=True, items=1)
    return scene, scene.with_colour(_other(rng, COLOURS, scene.colour))


def _other(rng: Random, names: Iterable[str], than: str) -> str:
    return rng.choice([name for name in names if name != than])


CHANGES: dict[str, Callable[[Random], tuple[Scene, Scene]]] = {
    "replace": _replace,
    "add": _add,
    "style": _style,
    "background": _background,
}
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
        "truth_psnr_db": masked_psnr(edited, truth, torch.ones_like(region)),
        "clip_score": float(clip.score(edited, [prompt])[0]),
    }


class Drawn:
    """A task's pictures, and the inversions that its variants share."""

    def __init__(self, model: DiffusionModel, clip: Clip, task: Task, options: argparse.Namespace) -> None:
        self.model, self.clip, self.task, self.options = model, clip, task, options
        self.before, self.truth = (to_pixel_values(render(s, options.icons)) for s in (task.source, task.target))
        self.prompts = caption(task.source), caption(task.target)
        size = (self.before.shape[-1], self.before.shape[-2])
        self.picture = Fitted(self.before, size, size)
        self.inversions: dict[tuple[str, str], tuple[dict[str, Any], Inverted]] = {}

    def result(self, method: str, name: str) -> tuple[dict[str, Any], Image.Image]:
        """(row, picture) of one variant."""
        if method in BOUNDS:
            edited = self.through_vae(self.before if method == NOTHING else self.truth)
            return figures(edited, self.before, self.truth, self.prompts[1], self.clip), to_image(edited)
        job = self.job(method, name)
        row, inverted = self.inverted("" if method == "pnp" else self.prompts[0], name, job)
        calls, started = self.model.counter.calls, time.perf_counter()
        ratio = float((job.ratio or [DEFAULT_RATIO])[0])
        latents = EDITS[method](Source(self.model, job, silent, self.picture, inverted), self.prompts[1], ratio)
        cost = {"edit_calls": self.model.counter.calls - calls, "edit_seconds": time.perf_counter() - started}
        edited = self.model.decode_latents(latents)
        return row | cost | figures(edited, self.before, self.truth, self.prompts[1], self.clip), to_image(edited)

    def job(self, method: str, name: str) -> Any:
        options, chosen = self.options, name if name in EDIT_INVERSIONS[method][0] else "auto"
        return make_job(
            "edit",
            {
                "image": "drawn",
                "src": self.prompts[0],
                "trg": self.prompts[1],
                "method": method,
                "inversion": chosen,
                "seed": 0,
                "steps": options.steps,
                "clip": options.model / "clip",
                **dict(map(parse_setting, options.set)),
            },
        )

    def inverted(self, prompt: str, name: str, job: EditJob) -> tuple[dict[str, Any], Inverted | None]:
        """(its figures, the inversion of that name); made once per prompt."""
        if name == "none":
            return {}, None
        if (name, prompt) not in self.inversions:
            started, wanted = time.perf_counter(), job.model_copy(update={"inversion": name})
            inversion = compute_inversion(self.model, [self.picture], [prompt], wanted, silent)
            row = {"inversion_calls": inversion.unet_calls, "inversion_seconds": time.perf_counter() - started}
            for what, latents in (("reconstruction", inversion.reconstruction), ("vae", inversion.trajectory.image)):
                picture = self.model.decode_latents(latents)
                row[f"{what}_psnr_db"] = float(psnr_db(self.before, picture))
                row[f"{what}_mse"] = float(mse(self.before, picture))
            self.inversions[name, prompt] = row, Inverted(inversion, (self.picture,), {})
        return self.inversions[name, prompt]

    def through_vae(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return self.model.decode_latents(self.model.encode_images(pixel_values))


def edit_all(
    model: DiffusionModel, clip: Clip, task: Task, wanted: list[tuple[str, str]], options: argparse.Namespace
) -> Iterator[tuple[dict[str, Any], Image.Image]]:
    """(row, picture) for every variant that is still wanted; one that fails says why, and the others go on."""
    drawn = Drawn(model, clip, task, options)
    for method, name in wanted:
        head = {
            "task": task.index,
            "kind": task.kind,
            "method": method,
            "inversion": name,
            "settings": settings_of(method, options),
        }
        try:
            row, picture = drawn.result(method, name)
        except SmoothtoolError as error:
            row, picture = {"error": str(error)}, Image.new("RGB", drawn.picture.size_px)
        yield head | row, picture


def settings_of(method: str, options: argparse.Namespace) -> str:
    """The settings that a result was made with; those of the bounds change nothing."""
    return "" if method in BOUNDS else " ".join(sorted(options.set))


def is_wanted(index: int, half: str | None, shard: str) -> bool:
    """Whether a task is in that half and shard; each has its part of every kind."""
    group, (mine, shards) = index // len(CHANGES), map(int, shard.split("/"))
    if half is not None:
        if group % 2 != HALVES.index(half):
            return False
        group //= 2
    return group % shards == mine


def results(path: Path) -> list[dict[str, Any]]:
    """What is there already."""
    return read_records(path.parent, path.name, {"task": int, "kind": str, "method": str, "inversion": str})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--icons", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=STICKERS)
    parser.add_argument("--lora", type=Path)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--skip", nargs="*", default=[], choices=list(EDITS), help="methods to leave out")
    parser.add_argument("--only", nargs="*", default=["/".join(v) for v in VARIANTS], help="METHOD/INVERSION to run")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="options of edit, for what runs now")
    parser.add_argument("--half", choices=HALVES, help="one half of the scenes")
    parser.add_argument("--shard", default="0/1", help="INDEX/COUNT of the scenes")
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--against", type=Path, help="results to compare with, scene by scene")
    parser.add_argument("--beside", help="METHOD/INVERSION to compare the others with, scene by scene")
    parser.add_argument("--winners", action="store_true", help="the best method by kind, as --method auto has it")
    options = parser.parse_args(arguments)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows = results(options.out)
    if not options.tables:
        model, clip = load_model(options.model, "stickers", device=options.device), load_clip(options.model / "clip")
        if options.lora:
            load_lora(model, options.lora)
        rows += run(model, clip, options, {(row["task"], *variant_of(row)) for row in rows})
    rows = [row for row in rows if is_wanted(row["task"], options.half, "0/1")]
    print_tables(rows, VARIANTS)
    if options.against:
        print_against(results(options.against), rows)
    if options.beside:
        print_beside(rows, *options.beside.split("/"))
    if options.winners:
        print("\n".join(winner_lines(rows, list(CHANGES))))


def run(model: DiffusionModel, clip: Clip, options: argparse.Namespace, done: set[Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for task in tasks(options.scenes):
        if not is_wanted(task.index, options.half, options.shard):
            continue
        wanted = [
            v
            for v in VARIANTS
            if ("/".join(v) in options.only or v[0] in BOUNDS)
            and v[0] not in options.skip
            and (task.index, *v, settings_of(v[0], options)) not in done
        ]
        pictures = [render(scene, options.icons) for scene in (task.source, task.target)]
        for row, picture in edit_all(model, clip, task, wanted, options):
            append_record(options.out, row)
            rows.append(row)
            pictures.append(picture)
        if wanted:
            labels = ["source", "true edit", *(f"{method} {name}" for method, name in wanted)]
            sheet = contact_sheet([pictures[:10], pictures[10:]], [labels[:10], labels[10:]])
            sheet.save(options.out.with_name(f"{options.out.stem}-{task.index:03d}.png"))
    return rows


if __name__ == "__main__":
    main()
