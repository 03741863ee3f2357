"""Several items of a batch through the UNet at once: what they have in common is precomputed, apart for each.

Items go together when they agree in everything but picture, prompts and seed, and their pictures have one size. Then
every item is run as it would be alone, with its own folder, record and failure, and finds its inversion and its edits
there. No item depends on its neighbours: each has null embeddings, noise and decisions of its own, so that a result
moves by rounding alone (within one grey level) when the batch is another.

Together go all inversions that `--inversion` names, and the edits switch, p2p, flowedit, sdedit and cycle. Left at one
at a time: `--compare`; pix2pix-zero's own inversion; the other editing methods; and `interpolate`, which already puts
its pictures and frames through the UNet together.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from smoothtool.batch.items import Work
from smoothtool.commands.edit.methods import EDITS_OF_SEVERAL, Source, edit_several
from smoothtool.commands.edit.stages import edit_key, inversion_for, ratios_of, source_prompt
from smoothtool.commands.invert.cached import Inverted, compute_each, inversion_settings, to_device
from smoothtool.commands.shared.model_pool import ModelPool, Precomputed
from smoothtool.commands.shared.session import fit_pictures, open_session
from smoothtool.diffusion.memory import failing_in_time
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import SmoothtoolError, out_of_memory
from smoothtool.files.pictures.images import Fitted, load_image
from smoothtool.files.pictures.picture_sizes import upright_size_px
from smoothtool.files.storage.cache import InversionCache, cache_key
from smoothtool.files.storage.inversions import is_inversion
from smoothtool.jobs import DEFAULT_RATIO, INVERSION_NAMES, EditJob, InvertJob, Job
from smoothtool.types import Inversion, Track
from smoothtool.weights.sample_pictures import resolve_picture

PictureJob = InvertJob | EditJob
ON_GPU = 4
"""By default, and not more: null-text inversion keeps what the UNet computed for all of them for its backward pass."""
OWN = ("image", "src", "trg", "seed")
"""In what items may differ that go together."""


@dataclass(frozen=True)
class _Member:
    """An item on its way: its picture [1, 3, H, W], and under which prompt and key it is inverted, if at all."""

    job: PictureJob
    picture: Fitted
    prompt: str
    key: str | None


def most_together(job: Job, on_gpu: bool) -> int:
    """How many items such as this one may go together."""
    if not isinstance(job, PictureJob) or is_inversion(job.image) or job.compare:
        return 1
    if _inversion_of(job) not in INVERSION_NAMES and getattr(job, "method", "") not in EDITS_OF_SEVERAL:
        return 1
    return job.batch_size or (ON_GPU if on_gpu and job.device != "cpu" else 1)


def grouped(works: Sequence[Work], on_gpu: bool) -> list[list[Work]]:
    """The items in the groups that go together, in the order in which the first of each kind stands."""
    alike: dict[str, tuple[int, list[Work]]] = {}
    for work in works:
        most = most_together(work.item.job, on_gpu)
        kind = _kind(work.item.job, most) if most > 1 else f"alone {work.name}"
        alike.setdefault(kind, (most, []))[1].append(work)
    return [same[at : at + most] for most, same in alike.values() for at in range(0, len(same), most)]


def _kind(job: Job, most: int) -> str:
    settings = job.settings()
    counts = len(settings.get("trg", ()))
    size = upright_size_px(_place(settings["image"]))
    return json.dumps([job.command, {key: settings[key] for key in settings if key not in OWN}, counts, size, most])


def _place(text: str) -> Path:
    try:
        return resolve_picture(text)
    except SmoothtoolError:
        return Path(text)


def precompute(jobs: Sequence[PictureJob], pool: ModelPool, track: Track) -> None:
    """Fill `pool.precomputed` with what these jobs will ask for, and `pool.precompute_s` with each one's share of time.

    Nothing is lost when this fails: a job that finds nothing there does its own work and reports its own fault.
    When memory runs out, half as many go together from there on; one that is left alone is not precomputed.
    """
    started = time.perf_counter()
    try:
        model = open_session(jobs[0], track, pool)
        with failing_in_time(model.device):
            members = [member for job in jobs if (member := _member(model, job))]
            _in_parts(members, pool, lambda part: _together(model, part, pool, track))
    except Exception as error:
        if pool.fault(jobs[0]) is None:  # else reported once, for all items of that model
            track.note(f"one at a time, because together it failed: {error}")
    pool.precompute_s = (time.perf_counter() - started) / len(jobs)


def _in_parts(members: Sequence[_Member], pool: ModelPool, work: Callable[[Sequence[_Member]], None]) -> None:
    at = 0
    while at < len(members) and pool.batch_limit > 1:
        part = members[at : at + pool.batch_limit]
        try:
            if len(part) > 1:
                work(part)
            at += len(part)
            continue
        except Exception as error:
            if not out_of_memory(error):
                raise
        pool.batch_limit = len(part) // 2  # past the handler, which holds on to what did not fit
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _member(model: DiffusionModel, job: PictureJob) -> _Member | None:
    """None for a picture that cannot be read: its own run will tell."""
    try:
        (picture,) = fit_pictures([load_image(resolve_picture(job.image))], model, job.size)
    except SmoothtoolError:
        return None
    prompt, inversion = source_prompt(job) if isinstance(job, EditJob) else job.src, _inversion_of(job)
    if inversion not in INVERSION_NAMES:
        return _Member(job, picture, prompt, None)
    settings = inversion_settings(model, [prompt], job.model_copy(update={"inversion": inversion}))
    return _Member(job, picture, prompt, cache_key(picture.pixel_values, settings))


def _inversion_of(job: PictureJob) -> str | None:
    return inversion_for(job) if isinstance(job, EditJob) else job.inversion


def _together(model: DiffusionModel, members: Sequence[_Member], pool: ModelPool, track: Track) -> None:
    inversions = _invert(model, [member for member in members if member.key], pool, track)
    sources = [
        Source(model, member.job, track, member.picture, _inverted(member, inversions))
        for member in members
        if isinstance(member.job, EditJob) and member.job.method in EDITS_OF_SEVERAL
    ]
    if sources:
        _edit(model, sources, pool)


def _inverted(member: _Member, inversions: dict[str, Inversion]) -> Inverted | None:
    return Inverted(inversions[member.key], (member.picture,), {}) if member.key else None


def _invert(model: DiffusionModel, members: Sequence[_Member], pool: ModelPool, track: Track) -> dict[str, Inversion]:
    """Inversions by key: from the cache, and all others in one batch."""
    cache, found = InversionCache(), dict[str, Inversion]()
    missing: dict[str, _Member] = {}
    for member in members:
        assert member.key is not None
        known = cache.get(member.key)
        if known is None:
            missing[member.key] = member
        else:
            found[member.key] = to_device(known[0], model.device)
    if missing:
        each = list(missing.values())
        job = each[0].job.model_copy(update={"inversion": _inversion_of(each[0].job)})
        made = compute_each(model, [one.picture for one in each], [one.prompt for one in each], job, track)
        found |= zip(missing, made, strict=True)
        pool.precomputed |= {(key,): Precomputed(found[key], found[key].unet_calls) for key in missing}
    return found


def _edit(model: DiffusionModel, sources: Sequence[Source], pool: ModelPool) -> None:
    """Every target, by its number, at every ratio."""
    job = sources[0].job
    for number in range(len(job.trg)):
        targets = [source.job.trg[number] for source in sources]
        for ratio in ratios_of(job):
            calls = model.counter.calls
            latents = edit_several(sources, targets, float(ratio or DEFAULT_RATIO))
            calls = model.counter.calls - calls
            for source, target, own in zip(sources, targets, torch.split(latents, 1), strict=True):
                pool.precomputed[edit_key(source.job, target, ratio)] = Precomputed(own, calls)
