"""`smoothtool eval`: figures for pictures that exist, whoever made them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, cast

import torch

from smoothtool.commands.shared.folders import result_folder
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.commands.shared.session import begin, save_report
from smoothtool.errors import InputError, UsageError
from smoothtool.figures import EvalClipScore, EvalFrechet, EvalReconstruction, EvalWalks
from smoothtool.files.lists.captions import PictureCaptions
from smoothtool.files.lists.inputs import pictures_directly_in
from smoothtool.files.lists.prompts import prompts_of
from smoothtool.files.pictures.images import load_image, to_pixel_values
from smoothtool.files.pictures.notes import PictureNotes
from smoothtool.metrics.bootstrap import bootstrap_mean, jackknife
from smoothtool.metrics.clip_score import Clip, load_clip
from smoothtool.metrics.fid import INCEPTION_NAME, Features, frechet, inception_features, inception_missing
from smoothtool.metrics.reconstruction import lpips, lpips_missing, mean_quality, qualities
from smoothtool.metrics.sequences import PairDistance, deviation, path_figures
from smoothtool.readers.regular import at_home
from smoothtool.types import Report, Track
from smoothtool.weights.models import STICKERS

if TYPE_CHECKING:
    from smoothtool.jobs import EvalJob

BATCH = 32


def run(job: EvalJob, track: Track, pool: ModelPool | None = None) -> Report[Any]:
    """Measure; leaves report.json and job.yaml."""
    job, report, track = begin(job, [job.metric, *job.folders], track)
    with result_folder(report, job) as folder:
        reader = _Reader()
        report.figures = METRICS[job.metric](job, reader, track)
        for note in (*reader.left_out, *reader.notes.lines()):
            track.note(note)
        save_report(report, folder)
    return report


@dataclass
class _Reader:
    """Opens the pictures of folders, and remembers what has to be said about them."""

    left_out: list[str] = field(default_factory=list)
    notes: PictureNotes = field(default_factory=PictureNotes)
    captions: PictureCaptions = field(default_factory=PictureCaptions)

    def pictures(self, folder: str) -> list[Path]:
        """Raises: InputError as `pictures_directly_in`."""
        paths, left_out = pictures_directly_in(folder)
        self.left_out += [f"{folder}: {left_out}"] if left_out else []
        return paths

    def pixel_values(self, path: Path) -> torch.Tensor:
        """[1, 3, H, W] in [-1, 1]."""
        return to_pixel_values(self.notes.add(path.name, load_image(path)))

    def own_prompt(self, path: Path) -> str:
        """The first caption beside a picture, or in the table of its folder. Raises: InputError without one."""
        captions = self.captions.of(path)
        if not captions:
            beside = path.with_suffix(".txt").name
            raise InputError(f"{path}: has no prompt beside it ({beside})", "--prompts with one prompt per picture")
        return captions[0]


def _reconstruction(job: EvalJob, reader: _Reader, track: Track) -> EvalReconstruction:
    """MSE, PSNR, SSIM, LPIPS or its stand-in, over pairs of pictures; `stand_in` is the key of the latter."""
    pairs = _pairs(reader.pictures(job.folders[0]), reader.pictures(job.folders[1]), track)
    rows: dict[str, dict[str, Any]] = {}
    found = []
    stand_in = _stand_in(job, track)
    for first, second in track(pairs, "comparing", len(pairs)):
        a, b = (reader.pixel_values(path) for path in (first, second))
        if a.shape != b.shape:
            sizes = " and ".join(f"{part.shape[-1]}x{part.shape[-2]}" for part in (a, b))
            raise InputError(f"{second}: has another size than {first} ({sizes})", "pictures of one size in pairs")
        found += qualities(a, b)
        rows[first.name] = {**found[-1].figures(), **({stand_in[0]: float(stand_in[1](a, b))} if stand_in else {})}
    figures = cast(EvalReconstruction, {**mean_quality(found), "per_picture": rows})
    if stand_in:
        figures["stand_in"], mean = stand_in[0], fmean(row[stand_in[0]] for row in rows.values())
        figures[stand_in[0]] = mean  # type: ignore[literal-required]
    return figures


def _frechet(job: EvalJob, reader: _Reader, track: Track) -> EvalFrechet:
    """`fid` in Inception's features; in CLIP's the figure has another name, so that nobody mixes the two."""
    use_clip = job.features == "clip" or (job.features == "auto" and bool(inception_missing()))
    if use_clip:
        clip = _clip(job)
        features, name = clip.image_features, clip.name
    else:
        features, name = inception_features, INCEPTION_NAME
    sets = [_features(reader, folder, features, track) for folder in job.folders]
    result = frechet(sets[0], sets[1], name)
    if result.warning:
        track.note(result.warning)
    if use_clip and job.features == "auto":
        track.note(f"in features of CLIP {name}, not comparable with FID: {inception_missing()}")
    figures: EvalFrechet = {"features": name, "pictures": list(result.counts)}
    figures["clip_frechet_distance" if use_clip else "fid"] = result.distance
    if result.left_out:
        interval = jackknife(result.distance, result.left_out)
        figures |= {"low": interval.low, "high": interval.high, "left_out": list(result.left_out)}
    return figures


def _clip_score(job: EvalJob, reader: _Reader, track: Track) -> EvalClipScore:
    """100 max(cos, 0) per picture, and the mean with its interval."""
    clip, paths = _clip(job), reader.pictures(job.folders[0])
    names = [path.name for path in paths]
    prompts = prompts_of(at_home(job.prompts), names) if job.prompts else [reader.own_prompt(path) for path in paths]
    scores = {}
    for path, prompt in track(zip(paths, prompts, strict=True), "scoring", len(paths)):
        scores[path.name] = float(clip.score(reader.pixel_values(path), [prompt]))
    return {"clip_score": bootstrap_mean(list(scores.values())).figures(), "clip": clip.name, "per_picture": scores}


def _walks(job: EvalJob, reader: _Reader, track: Track) -> EvalWalks:
    """Deviation of adjacent L2 distances, PPL and PDV of every folder of frames."""
    stand_in = _stand_in(job, track)
    if stand_in is None and lpips_missing():
        raise UsageError(f"PPL needs a perceptual distance: {lpips_missing()}", "--clip with a CLIP on this machine")
    name, distance = stand_in or ("lpips", _lpips)
    figures: EvalWalks = {}
    for folder in track(job.folders, "measuring", len(job.folders)):
        paths = reader.pictures(folder)
        if len(paths) < 2:
            raise InputError(f"{folder}: a sequence needs two frames, this has {len(paths)}", "a folder of frames")
        parts = [reader.pixel_values(path) for path in paths]
        if len({part.shape for part in parts}) > 1:
            raise InputError(f"{folder}: the frames differ in size", "frames of one size")
        frames = torch.cat(parts)
        figures[folder] = {
            "adjacent_l2": deviation(frames).figures(),
            "path": path_figures(frames, distance, name).figures(),
        }
    return figures


METRICS: dict[str, Callable[[EvalJob, _Reader, Track], Mapping[str, Any]]] = {
    "recon": _reconstruction,
    "fid": _frechet,
    "clip": _clip_score,
    "walk": _walks,
}


def _clip(job: EvalJob) -> Clip:
    return load_clip(STICKERS / "clip" if job.clip == "stickers" else job.clip)


def _stand_in(job: EvalJob, track: Track) -> tuple[str, PairDistance] | None:
    """The CLIP patch distance under its own name where LPIPS is missing, if there is a CLIP."""
    if not (reason := lpips_missing()):
        return None
    track.note(reason)
    if job.clip == "stickers" and not (STICKERS / "clip").is_dir():
        return None
    clip = _clip(job)
    return f"clip_patch_distance ({clip.name})", clip.patch_distance


def _lpips(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    values = lpips(first, second)
    if values is None:
        raise InputError(lpips_missing(min(first.shape[-2:])), "larger frames")
    return values


def _pairs(first: Sequence[Path], second: Sequence[Path], track: Track) -> list[tuple[Path, Path]]:
    """Pictures of the same name, whatever the suffix; where names differ, in the order of the names."""
    if len(first) != len(second):
        counts = f"{first[0].parent} has {len(first)} pictures, {second[0].parent} has {len(second)}"
        raise InputError(counts, "the same pictures in both")
    if [path.stem for path in first] != [path.stem for path in second]:
        track.note("the names in the two folders differ: pictures are paired in the order of their names")
    return list(zip(first, second, strict=True))


def _features(reader: _Reader, folder: str, features: Features, track: Track) -> torch.Tensor:
    """Features [N, D] of all pictures of a folder, those of one size in batches."""
    paths = reader.pictures(folder)
    batches = track(_batches(reader, paths), "reading", -(-len(paths) // BATCH))
    return torch.cat([features(batch) for batch in batches])


def _batches(reader: _Reader, paths: Sequence[Path]) -> Iterator[torch.Tensor]:
    for at in range(0, len(paths), BATCH):
        loaded = map(reader.pixel_values, paths[at : at + BATCH])
        for _, same in groupby(loaded, key=lambda picture: picture.shape):
            yield torch.cat(list(same))
