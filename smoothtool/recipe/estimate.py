"""About how much work jobs are, before any of it is done: calls of the UNet, which take nearly all the time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from smoothtool.jobs import EDIT_INVERSIONS, INVERSION_NAMES, MORPH_NAMES, SHARED_INVERSION, Job, identity_steps

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

LARGEST_BATCH = 64
"""Rows of a UNet call where memory sets no other limit."""
Settings = Mapping[str, Any]


def estimate_unet_calls(jobs: Iterable[Job]) -> int:
    """About how many calls of the UNet, if nothing is in the cache yet."""
    inversions: dict[tuple[str, ...], float] = {}
    calls = 0.0
    for job in jobs:
        settings = job.settings()
        calls += _CALLS.get(job.command, _none)(settings)
        if _shares_inversion(job.command, settings):
            inversions[tuple(str(settings.get(key)) for key in SHARED)] = _inversion(settings)
    return round(calls + sum(inversions.values()))


def _shares_inversion(command: str, job: Settings) -> bool:
    """Whether it starts from an inversion that other jobs may share; compared methods each have their own."""
    pictures = job.get("image") or job.get("images")
    if "inversion" not in job or not pictures or job.get("compare"):
        return False
    return command != "interpolate" or job["method"] in SHARED_INVERSION


def _none(job: Settings) -> float:
    return 0.0


def _invert(job: Settings) -> float:
    """Compared, every inversion afresh; else what is counted once for all jobs that share it."""
    return sum(_inversion({**job, "inversion": name}) for name in INVERSION_NAMES) if job["compare"] else 0.0


def _inversion(job: Settings) -> float:
    """Per denoising step: one call to invert, and what the method does to find its way back."""
    method = job["inversion"]
    if method == "auto":
        method = "direct" if job["method"] == "pix2pix-zero" else next(iter(EDIT_INVERSIONS[job["method"]][0]), "none")
    null_text = 10 if job["solver"] == "gauss-newton" else 3 + job["inner_steps"]
    solved = {"anderson": 4, "plain": 5, "adamw": 25}[job["fixed_point_solver"]]
    per_step = {"nti": null_text, "none": 0, "direct": 1, "edict": 4, "fixed-point": 5, "spdinv": solved, "dci": solved}
    return float(job["steps"] * per_step.get(method, 2))


def _interpolate(job: Settings) -> float:
    """A batch of frames per pair; the ends of a noise walk are sampled too; ANID enters its levels on the way.

    FreeMorph makes four fifths of the steps, each five times forth and twice back. DiffMorpher learns, inverts and
    samples the pictures first.
    """
    if job["compare"]:
        own = [_interpolate({**job, "compare": False, "method": name}) for name in MORPH_NAMES]
        return _inversion(job) + sum(own)
    if job["grid"]:
        side = job["frames"] + 2
        frames = side * side - 4 if len(job["images"]) == 4 else side * (side + 1) // 2 - 3
        return float(job["steps"] * math.ceil(2 * frames / LARGEST_BATCH))
    pairs = max(1, len(job["images"]) - 1) + bool(job["loop"])
    each = {"vae": 0.0, "anid": 0.5, "freemorph": 0.8 * (5 + 2)}.get(job["method"], 1.0)
    learned = len(job["images"]) * job["lora_steps"] + 2 * job["steps"] if job["method"] == "diffmorpher" else 0
    passes = each * pairs * (1 + bool(job["reschedule"])) + (not job["images"])
    return float(job["steps"] * passes + learned)


def _edit(job: Settings) -> float:
    ratios = [float(text) for text in job["ratio"]] or [0.8]
    parts = {
        "switch": sum(ratios),
        "sdedit": job["strength"],
        "cycle": job["strength"],
        "flowedit": job["strength"],
        "pix2pix-zero": 3.0,
        "disentangle": 19.0,
    }
    if job["compare"]:
        inverted = sum(_inversion({**job, "inversion": name}) for name in ("nti", "ddim", "direct"))
        return inverted + math.ceil((sum(parts.values()) + 3.0) * job["steps"])
    return float(len(job["trg"]) * math.ceil(parts.get(job["method"], 1.0) * job["steps"]))


def _drag(job: Settings) -> float:
    updates = {"dragdiffusion": job["iterations"] or 80, "gooddrag": 3 * (job["iterations"] or 70)}
    sampled = (1 if job["method"] == "warp" else 2) * job["strength"] * job["steps"]
    return float(identity_steps(job["method"], job["lora_steps"]) + sampled + 2 * updates.get(job["method"], 0))


def _istd(job: Settings) -> float:
    """Walks fill batches of the default size."""
    return float((1 + bool(job["compare_lora"])) * math.ceil(job["n"] * job["frames"] / 22) * job["steps"])


def _tables(job: Settings) -> float:
    """Eight models walked and sampled, six of them trained; pictures given back four ways; walks between pairs."""
    models = 8 if job["train_steps"] else 2
    walks = math.ceil(job["n"] * 11 / 22) + math.ceil(job["pictures"] / 32)
    between = job["pairs"] * (2 * (10 + 1) + 5 * 0.5)  # two slerp walks with their inversions; ANID at N and 4 N
    return job["steps"] * (models * walks + job["inverted"] * 2 * (10 + 2) + between) + 18.0 * job["train_steps"]


_CALLS: dict[str, Callable[[Settings], float]] = {
    "interpolate": _interpolate,
    "invert": _invert,
    "tables": _tables,
    "edit": _edit,
    "drag": _drag,
    "istd": _istd,
    "train": lambda job: job["max_steps"] * job["accumulate"] * (1 + 2 / job["every"]),
}
