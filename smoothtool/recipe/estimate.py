"""About how much work jobs are, before any of it is done: calls of the UNet, which take nearly all the time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from smoothtool.jobs import (
    DEFAULT_RATIO,
    EDIT_INVERSIONS,
    INVERSION_NAMES,
    MORPH_NAMES,
    NEED_SOURCE,
    SHARED_INVERSION,
    BenchJob,
    Job,
    drag_iterations,
    identity_steps,
    opened_steps,
    parse_shard,
)

SHARED = (
    "image",
    "images",
    "src",
    "model",
    "lora",
    "size",
    "steps",
    "guidance",
    "negative",
    "inversion",
    "solver",
    "inner_steps",
    "null_anchor",
    "null_trust",
    "fixed_point_solver",
)
"""What an inversion depends on: jobs that agree in all of it share one through the cache."""
INVERSION_CALLS = {"none": 0, "direct": 1, "regularised": 1, "edict": 4, "fixed-point": 5}
"""Per denoising step, one to invert and what the method does to find its way back; 2 for the others, but for those that
solve each step: `NULL_TEXT_CALLS` and `SOLVER_CALLS`.
"""
NULL_TEXT_CALLS, GAUSS_NEWTON_CALLS = 13, 10
"""With Adam, 3 and its inner steps, of which there are ten unless others are asked for; with Gauss-Newton."""
SOLVER_CALLS = {"anderson": 4, "plain": 5, "adamw": 25}
EDIT_CALLS = {"pix2pix-zero": 3, "disentangle": 19}
"""Per denoising step; 1 for the others, which take only a part of the steps where `STARTS_LATE`."""
ANID_PART = 0.5
"""Of the steps: where its first level begins."""
FREEMORPH_PART, FREEMORPH_ROUNDS = 0.8, 5
"""Of the steps, and passes for each of them on the way to the noise."""
STARTS_LATE = ("sdedit", "cycle", "flowedit")
"""Editing methods that take `strength` of the steps."""
TRAIN_CALLS = {"central": 3, "one-sided": 2, "forward-variation": 2, "double-backward": 1}
"""Per batch with the regulariser; 1 without."""
CHECK_CALLS = {"central": 6, "one-sided": 4, "forward-variation": 4, "double-backward": 0}
"""Per sample whose difference is compared with one twice as long, which is one in `CHECKED_EVERY`."""
CHECKED_EVERY = 32
UPDATES_A_ROUND, ROUNDS_A_STEP = 3, 10
"""GoodDrag: updates of the latents per tracking, and trackings (what `--iterations` counts) per denoising step."""
ISTD_BATCH, ISTD_SHOWN = 22, 6
"""Pictures at once by default, and the walks that are made again for the sheet."""
TABLE_TRAININGS, TABLES_BATCH = 6, 32
"""Three weights of the regulariser at one rank, and three other ranks at one weight; pictures at once."""
LARGEST_BATCH = 64
"""Rows of a UNet call where memory sets no other limit."""

Settings = Mapping[str, Any]


def estimate_unet_calls(jobs: Iterable[Job]) -> int:
    """About how many calls of the UNet, if nothing is in the cache yet.

    Raises: InputError when a benchmark's folder is not as it is published.
    """
    inversions: dict[tuple[str, ...], float] = {}
    calls = 0.0
    for job in each_job(jobs):
        settings = job.settings() | job.handover()
        calls += _CALLS.get(job.command, _none)(settings)
        if "inversion" in settings and not settings.get("compare"):
            inversions[tuple(str(settings.get(key)) for key in SHARED)] = _inversion(settings)
    return round(calls + sum(inversions.values()))


def each_job(jobs: Iterable[Job]) -> Iterable[Job]:
    """The jobs, those of a benchmark one by one."""
    for job in jobs:
        if isinstance(job, BenchJob):
            from smoothtool.recipe.benchmarks import job_of_item, read_items, share

            yield from (job_of_item(job, item) for item in share(read_items(job), *parse_shard(job.shard)))
        else:
            yield job


def _none(job: Settings) -> float:
    return 0.0


def _invert(job: Settings) -> float:
    """DDIM's pictures are also given back at guidance 1. Compared, every inversion is made afresh; else it is counted
    once for all jobs that share it.
    """
    again = job["steps"] if job["compare"] or job["inversion"] == "ddim" else 0
    return float(again + (sum(_inversion_of(job, name) for name in INVERSION_NAMES) if job["compare"] else 0))


def _inversion(job: Settings) -> float:
    """What the job inverts; an inversion file is inverted already, and for a walk only fitted anew."""
    pictures = [job["image"]] if "image" in job else job["images"]
    name = name_of_inversion(job)
    if not pictures or name == "none":
        return 0.0
    done = str(pictures[0]).lower().endswith(".safetensors")
    if done and "image" in job:
        return 0.0
    return _inversion_of(job, name) - done * job["steps"]


def name_of_inversion(job: Settings) -> str:
    """The inversion that the job means, or none."""
    method = job.get("method")
    if "images" in job and method not in SHARED_INVERSION:
        return "none"
    if method == "pix2pix-zero":
        return "regularised"
    if job["inversion"] != "auto":
        return str(job["inversion"])
    return next(iter(EDIT_INVERSIONS[str(method)][0]), "none")


def _inversion_of(job: Settings, name: str) -> float:
    if name == "nti":
        return float(job["steps"] * (GAUSS_NEWTON_CALLS if job["solver"] == "gauss-newton" else 3 + job["inner_steps"]))
    if name in ("spdinv", "dci"):
        return float(job["steps"] * SOLVER_CALLS[job["fixed_point_solver"]])
    return float(job["steps"] * INVERSION_CALLS.get(name, 2))


def _interpolate(job: Settings) -> float:
    """A batch of frames per pair; the ends of a noise walk are sampled too. DiffMorpher learns, inverts and samples the
    pictures first.
    """
    if job["compare"]:
        own = [_interpolate({**job, "compare": False, "method": name}) for name in MORPH_NAMES]
        return _inversion(job) + sum(own)
    if job["grid"]:
        side = job["frames"] + 2
        frames = side * side - 4 if len(job["images"]) == 4 else side * (side + 1) // 2 - 3
        return float(job["steps"] * math.ceil(_halves(job) * frames / LARGEST_BATCH))
    pairs = max(1, len(job["images"]) - 1) + bool(job["loop"])
    learned = len(job["images"]) * job["lora_steps"] + 2 * job["steps"] if job["method"] == "diffmorpher" else 0
    ends = 0 if job["images"] else job["steps"]
    return float(_between(job) * pairs * (1 + bool(job["reschedule"])) + ends + learned)


def _between(job: Settings) -> int:
    """The frames between one pair; DiffMorpher's batches hold the pair, too."""
    method, steps, frames = job["method"], job["steps"], job["frames"]
    if method == "vae":
        return 0
    if method == "anid":
        return int(ANID_PART * steps)
    if method == "freemorph":
        return int(FREEMORPH_PART * steps) * (FREEMORPH_ROUNDS + _halves(job))
    if method == "diffmorpher":
        return int(steps * math.ceil(frames / (LARGEST_BATCH // _halves(job) - 2)))
    return int(steps * math.ceil(_halves(job) * frames / LARGEST_BATCH))


def _halves(job: Settings) -> int:
    """Rows that guidance takes for each picture."""
    return 1 if job["guidance"] == 1 else 2


def _edit(job: Settings) -> float:
    """Every target at every ratio. Compared, every method that the job has the prompts for once, with an inversion for
    each kind that they want.
    """
    if not job["compare"]:
        ratios = [float(text) for text in job["ratio"] or [DEFAULT_RATIO]] if job["method"] == "switch" else [1.0]
        return float(len(job["trg"]) * sum(_one_edit(job, job["method"], ratio) for ratio in ratios))
    left_out = () if job["src"].strip() else NEED_SOURCE
    methods = [{**job, "method": name, "inversion": "auto"} for name in EDIT_INVERSIONS if name not in left_out]
    inverted = {(name_of_inversion(each), each["method"] == "pnp") for each in methods}
    ratio = float((job["ratio"] or [DEFAULT_RATIO])[0])
    edits = sum(_one_edit(job, each["method"], ratio if each["method"] == "switch" else 1.0) for each in methods)
    return edits + sum(_inversion_of(job, name) for name, _ in inverted)


def _one_edit(job: Settings, method: str, ratio: float) -> int:
    part = job["strength"] if method in STARTS_LATE else ratio
    return EDIT_CALLS.get(method, 1) * int(round(part * job["steps"], 9))


def _drag(job: Settings) -> float:
    """Learn the picture, open it, drag, and sample the rest: at most, since handles may arrive early."""
    steps, method = job["steps"], job["method"]
    opened = opened_steps(method, job["strength"], steps)
    if job["image"]:
        calls = identity_steps(method, job["lora_steps"]) + (0 if method == "warp" else opened)
    else:  # made from a prompt
        calls = steps if method == "warp" else steps - opened
    iterations = drag_iterations(method, job["iterations"])
    if method == "gooddrag":
        dragged = min(-(-iterations // ROUNDS_A_STEP), opened)
        calls += dragged * (1 + ROUNDS_A_STEP * UPDATES_A_ROUND)  # the step itself counts as sampled below
    else:
        calls += iterations
    return float(calls + opened)


def _istd(job: Settings) -> float:
    """Whole walks share batches; the smoothest and the roughest are walked again for the sheet."""
    index, count = parse_shard(job.get("shard"))
    groups = _walk_groups(job["n"], job)
    mine = len(range(groups)[index - 1 :: count]) * _calls_of_group(job)
    sheet = _walk_groups(min(ISTD_SHOWN, job["n"]), job) * _calls_of_group(job)
    return float((1 + bool(job["compare_lora"])) * (mine + sheet) * job["steps"])


def _walk_groups(walks: int, job: Settings) -> int:
    """Batches of walks, or single walks that fill several."""
    return math.ceil(walks / max(1, job.get("batch_size", ISTD_BATCH) // job["frames"]))


def _calls_of_group(job: Settings) -> int:
    return math.ceil(job["frames"] / job.get("batch_size", ISTD_BATCH))


def _train(job: Settings) -> float:
    """Every batch once, and as often as the gradient asks in the steps that are regularised; the sheets of walks."""
    batches = job["max_steps"] * job["accumulate"]
    sheets = job["max_steps"] // job["sample_every"] * job["steps"] if job.get("sample_every") else 0
    if not job["lambda"]:
        return float(batches + sheets)
    regularised = math.ceil(job["max_steps"] / job["every"]) * job["accumulate"]
    checked = math.ceil(regularised * job["batch_size"] / CHECKED_EVERY)
    more = (TRAIN_CALLS[job["gradient"]] - 1) * regularised + CHECK_CALLS[job["gradient"]] * checked
    return float(batches + sheets + more)


def _tables(job: Settings) -> float:
    """Two models, and those that are trained, walked and sampled; pictures given back two ways by the two, DDIM's also
    at guidance 1; walks between pairs.
    """
    trained = TABLE_TRAININGS if job["train_steps"] else 0
    one = {"max_steps": job["train_steps"], "batch_size": job["train_batch_size"], "lambda": 1.0, "every": 1}
    training = _train({**one, "accumulate": 1, "gradient": "central"}) if trained else 0
    walks = _istd({"n": job["n"], "frames": 11, "steps": job["steps"], "compare_lora": []})
    made = job["steps"] * math.ceil(job["pictures"] / TABLES_BATCH)
    inverted = 2 * job["inverted"] * (3 + NULL_TEXT_CALLS)
    between = job["pairs"] * (2 * (NULL_TEXT_CALLS + 1) + 5 * ANID_PART)  # two slerp walks, inverted; ANID at N and 4 N
    return (2 + trained) * (walks + made) + trained * training + job["steps"] * (inverted + between)


_CALLS: dict[str, Callable[[Settings], float]] = {
    "interpolate": _interpolate,
    "invert": _invert,
    "tables": _tables,
    "edit": _edit,
    "drag": _drag,
    "istd": _istd,
    "train": _train,
}
