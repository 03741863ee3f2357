"""Every way of morphing between two held-out sticker scenes, measured pair by pair.

    python tests/benchmarks/bench_morphs.py --icons WORK/icons --out results/morphs.jsonl [--pairs 24] [--steps 50]
        [--frames 7] [--lora PATH|none] [--only slerp freemorph] [--set guidance=5] [--shard 0/2] [--beside slerp]

WORK is the folder of `python -m smoothtool.stickers.making icons --work WORK`. A pair is two scenes of one item each,
both of combinations that were never trained on, with their captions. Figures: standard deviation of the adjacent L2
distances, PPL and PDV, the end frames' PSNR to the pictures, the middle's sharpness, UNet calls and seconds of the ends
and of the frames. A cross-fade (`vae`) is smoothest by definition: its middle has about half of the detail, which is
what tells it from a morph. Every result is a line of the file as soon as it is there, and a second run goes on; every
pair leaves a sheet beside the file. Shards 0/2 and 1/2 are two processes on one file.

--tables prints what is there; --beside VARIANT what every other has more than that one, with 95 % intervals over the
pairs that both have. --set gives options of `interpolate` to what runs now, and becomes part of the variant's name.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

import torch
from PIL import Image

from smoothtool.commands.interpolate.compare import Opened, compared_ends, morph_figures, morph_sheet, pictures_of
from smoothtool.commands.interpolate.stages import frames_between
from smoothtool.commands.shared.cost import measured
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.commands.shared.path_distance import path_distance
from smoothtool.commands.shared.session import SourceFile, open_sources
from smoothtool.diffusion.loading import load_model
from smoothtool.diffusion.lora import load_lora
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import SmoothtoolError
from smoothtool.files.drawing.markdown import markdown_table
from smoothtool.files.storage.records import append_record, read_records
from smoothtool.jobs import MORPH_NAMES, InterpolateJob, make_job, parse_setting
from smoothtool.metrics.bootstrap import paired_difference
from smoothtool.stickers.world.scenes import Scene, caption, render, sample_scene
from smoothtool.types import silent
from smoothtool.weights.models import STICKERS

SEED = 8_000_000_000
RESCHEDULED = " rescheduled"
VARIANTS = [
    name + again for name in MORPH_NAMES for again in ("", RESCHEDULED) if (name, again) != ("anid", RESCHEDULED)
]
FIGURES = ("adjacent_l2_std", "ppl", "pdv", "ends_psnr_db", "middle_sharpness")
COST = ("opening_unet_calls", "opening_seconds", "unet_calls", "seconds")
Row = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """Two scenes to morph into each other."""

    index: int
    scenes: tuple[Scene, Scene]


def pairs(count: int) -> Iterator[Pair]:
    """The same pairs every time."""
    for index in range(count):
        rng = Random(SEED + index)
        first, last = (sample_scene(rng, held_out=True, items=1) for _ in range(2))
        yield Pair(index, (first, last))


def results(path: Path) -> list[Row]:
    """What is there already."""
    return read_records(path.parent, path.name, {"pair": int, "variant": str})


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--icons", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=STICKERS)
    parser.add_argument("--lora", type=Path)
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--frames", type=int, default=7, help="between the ends; 2^k - 1 for ANID")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", default=VARIANTS, choices=VARIANTS, help="variants to run")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="options for what runs now")
    parser.add_argument("--shard", default="0/1", help="INDEX/COUNT of the pairs")
    parser.add_argument("--tables", action="store_true")
    parser.add_argument("--beside", help="VARIANT to compare the others with, pair by pair")
    options = parser.parse_args(arguments)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rows = results(options.out)
    if not options.tables:
        model = load_model(options.model, "stickers", device=options.device)
        if options.lora:
            load_lora(model, options.lora)
        rows += run(model, options, {(row["pair"], row["variant"]) for row in rows if "error" not in row})
    print(table(rows))
    if options.beside:
        print("\n".join(differences(rows, options.beside)))


def run(model: DiffusionModel, options: argparse.Namespace, done: set[tuple[int, str]]) -> list[Row]:
    rows: list[Row] = []
    mine, shards = map(int, options.shard.split("/"))
    for pair in pairs(options.pairs):
        wanted = [name for name in options.only if (pair.index, variant_name(name, options)) not in done]
        if pair.index % shards != mine or not wanted:
            continue
        shown: dict[str, torch.Tensor] = {}
        with tempfile.TemporaryDirectory() as folder:
            os.environ["SMOOTHTOOL_CACHE"] = f"{folder}/cache"  # an empty one: what a morph costs is measured whole
            job = job_of(pair, Path(folder), options)
            files = open_sources(job.images, silent)
            inputs = pictures_of(model, files, job, silent)
            for figures, frames in morph_all(model, files, job, inputs, wanted, options):
                rows.append({"pair": pair.index, **figures})
                append_record(options.out, rows[-1])
                if frames is not None:
                    shown[figures["variant"].removesuffix(variant_name("", options))] = frames
        if shown:
            morph_sheet(shown, inputs).save(options.out.with_name(f"{options.out.stem}-{pair.index:03d}.png"))
    return rows


def job_of(pair: Pair, folder: Path, options: argparse.Namespace) -> Any:
    """The morph of a pair, whose pictures are put into `folder`."""
    pictures: list[Image.Image] = [render(scene, options.icons) for scene in pair.scenes]
    names = [folder / f"{index}.png" for index in range(len(pictures))]
    for name, picture in zip(names, pictures, strict=True):
        picture.save(name)
    return make_job(
        "interpolate",
        {
            "images": [str(name) for name in names],
            "src": [caption(scene) for scene in pair.scenes],
            "compare": True,
            "frames": options.frames,
            "steps": options.steps,
            "seed": 0,
            **dict(map(parse_setting, options.set)),
        },
    )


def morph_all(
    model: DiffusionModel,
    files: Sequence[SourceFile],
    job: InterpolateJob,
    inputs: torch.Tensor,
    wanted: Sequence[str],
    options: argparse.Namespace,
) -> Iterator[tuple[Row, torch.Tensor | None]]:
    """(row, frames) of every variant; one that fails says why, and the others go on."""
    opened: dict[str, Opened] = {}
    distance, name = path_distance(min(inputs.shape[-2:]), silent)
    for variant in wanted:
        head = {"variant": variant_name(variant, options), "distance": name}
        own = job.model_copy(update={"reschedule": variant.endswith(RESCHEDULED)})
        try:
            found, own = compared_ends(
                model, files, own, variant.removesuffix(RESCHEDULED), opened, silent, ModelPool()
            )
            with measured(model) as cost:
                frames = frames_between(model, found.ends, own, silent).pixel_values
        except SmoothtoolError as error:
            yield {**head, "error": str(error)}, None
            continue
        row = {**head, **morph_figures(frames, inputs, distance, name), **found.figures()}
        yield {**row, "unet_calls": cost.unet_calls, "seconds": cost.seconds}, frames


def variant_name(variant: str, options: argparse.Namespace) -> str:
    """With the options that were given for it."""
    return " ".join([variant, *sorted(options.set)])


def table(rows: Sequence[Row]) -> str:
    """Means over the pairs, a line per variant."""
    if not rows:
        return "no results yet"
    lines = []
    for variant in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == variant and "error" not in row]
        failed = sum(row["variant"] == variant for row in rows) - len(own)
        lines.append(
            {"variant": variant, "n": len(own), "failed": failed, **{key: mean(own, key) for key in FIGURES + COST}}
        )
    return markdown_table(lines)


def differences(rows: Sequence[Row], beside: str) -> list[str]:
    """Mean and interval of every variant less that one, over the pairs that both have."""
    first = {row["pair"]: row for row in rows if row["variant"] == beside}
    lines = []
    for variant in dict.fromkeys(row["variant"] for row in rows if row["variant"] != beside):
        own = {row["pair"]: row for row in rows if row["variant"] == variant}
        for key in FIGURES:
            both = [
                (first[pair][key], own[pair][key])
                for pair in sorted(first.keys() & own.keys())
                if first[pair].get(key) is not None and own[pair].get(key) is not None
            ]
            if both:
                change = paired_difference(*map(list, zip(*both, strict=True)))
                span = f"{change.mean:+.4g} ({change.low:+.4g} to {change.high:+.4g}) over {change.count}"
                lines.append(f"{variant}  {key}  {span}")
    return lines


def mean(rows: Sequence[Row], key: str) -> float | None:
    values = [row[key] for row in rows if row.get(key) is not None]
    return fmean(values) if values else None


if __name__ == "__main__":
    main()
