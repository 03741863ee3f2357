"""`interpolate --compare`: every method between two pictures, one labelled sheet, one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image

from smoothtool.commands.interpolate.stages import Ends, frames_between, open_ends
from smoothtool.commands.invert.cached import note_convergence
from smoothtool.commands.shared.comparison import write_table
from smoothtool.commands.shared.cost import Cost, measured
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.commands.shared.path_distance import path_distance
from smoothtool.commands.shared.session import SourceFile, fit_pictures, note_cropped, note_size
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import SmoothtoolError, UsageError
from smoothtool.figures import ComparedMorph, InterpolateFigures, MorphQuality, OpeningFigures
from smoothtool.files.drawing.sheets import BACKGROUND, contact_sheet
from smoothtool.files.pictures.images import crop_back, to_image
from smoothtool.jobs import MORPH_NAMES, SHARED_INVERSION
from smoothtool.jobs.interpolate import anid_problem
from smoothtool.metrics.reconstruction import psnr_db
from smoothtool.metrics.sequences import PairDistance, deviation, path_figures
from smoothtool.metrics.sharpness import sharpness
from smoothtool.types import Report, Track

if TYPE_CHECKING:
    from smoothtool.jobs import InterpolateJob


@dataclass(frozen=True)
class Opened:
    """The ends of one method or of several, and what it cost to find them."""

    ends: Ends
    cost: Cost

    def figures(self) -> OpeningFigures:
        """Of what the cache knew, the calls that it once took, where they are known, and no seconds."""
        inverted, cached = self.ends.inverted, self.ends.from_cache
        calls = inverted.inversion.unet_calls if inverted is not None else None if cached else self.cost.unet_calls
        return {"opening_unet_calls": calls, "opening_seconds": None if cached else self.cost.seconds}


def compare_morphs(
    model: DiffusionModel,
    files: Sequence[SourceFile],
    job: InterpolateJob,
    track: Track,
    report: Report[InterpolateFigures],
    folder: Path,
    pool: ModelPool,
) -> None:
    """Every method at its own guidance; those that start from the shared inversion have it once."""
    rows: list[ComparedMorph] = []
    shown: dict[str, torch.Tensor] = {}
    opened: dict[str, Opened] = {}
    inputs, failed = pictures_of(model, files, job, track), None
    distance, name = path_distance(min(inputs.shape[-2:]), track)
    for method in MORPH_NAMES:
        try:
            found, wanted = compared_ends(model, files, job, method, opened, track, pool)
            with measured(model) as cost:
                frames = frames_between(model, found.ends, wanted, track).pixel_values
        except SmoothtoolError as error:
            failed = error
            track.note(f"{method} is left out: {error}")
            continue
        figures = morph_figures(frames, inputs, distance, name)
        rows.append({"method": method, **figures, **found.figures(), **cost.figures()})
        shown[method] = frames
    if failed is not None and not rows:
        raise failed
    for found in opened.values():
        if found.ends.inverted is not None:
            note_convergence(found.ends.inverted.inversion, track)
    report.figures |= {"compare": rows, "distance": name}
    write_table(rows, morph_sheet(shown, inputs), report, folder)


def pictures_of(model: DiffusionModel, files: Sequence[SourceFile], job: InterpolateJob, track: Track) -> torch.Tensor:
    """The pictures themselves [2, 3, H, W], as the frames are cut; notes say what happens to them.

    Raises: UsageError for inversion files.
    """
    pictures = [file.picture for file in files if file.picture is not None]
    if len(pictures) < len(files):
        raise UsageError("methods are compared with the pictures, which inversion files do not hold", "the pictures")
    fitted = fit_pictures(pictures, model, job.size)
    note_size(job.images[0], fitted[0].original_size_px, fitted[0].size_px, job.size, model, track)
    note_cropped(job.images, fitted, track)
    return torch.cat([crop_back(picture.pixel_values, fitted[0]) for picture in fitted])


def compared_ends(
    model: DiffusionModel,
    files: Sequence[SourceFile],
    job: InterpolateJob,
    method: str,
    opened: dict[str, Opened],
    track: Track,
    pool: ModelPool,
) -> tuple[Opened, InterpolateJob]:
    """The ends of one method, and its job at its own defaults.

    opened  ends by the methods that share them: what is there is not made again, what is made is put there
    Raises: UsageError when ANID cannot make the frames that are asked for.
    """
    if method == "anid" and (problem := anid_problem(job.frames)):
        raise UsageError(f"it {problem}", "--frames 7")
    own = {"method": method, "reschedule": job.reschedule and method != "anid", **job.own_defaults.get(method, {})}
    wanted, kind = job.model_copy(update=own), "shared" if method in SHARED_INVERSION else method
    if kind not in opened:
        with measured(model) as cost:
            ends = open_ends(model, files, wanted, track, pool)
        opened[kind] = Opened(ends, cost)
    return opened[kind], wanted


def morph_figures(frames: torch.Tensor, inputs: torch.Tensor, distance: PairDistance, name: str) -> MorphQuality:
    """What tells morphs apart; a cross-fade is the smoothest of all, and only its middle gives it away.

    frames  [F, 3, H, W]; inputs [2, 3, H, W], the pictures
    """
    path = path_figures(frames, distance, name)
    return {
        "adjacent_l2_std": deviation(frames).population_std,
        "ppl": path.ppl,
        "pdv": path.pdv,
        "ends_psnr_db": float(psnr_db(frames[[0, -1]], inputs.to(frames)).mean()),
        "middle_sharpness": sharpness(frames).middle,
    }


def morph_sheet(shown: Mapping[str, torch.Tensor], inputs: torch.Tensor) -> Image.Image:
    """The pictures, then a row per method; all begin and end in the columns of the pictures."""
    first, last = (to_image(picture) for picture in inputs)
    between = len(next(iter(shown.values()))) - 2
    rows = [[first, *[Image.new("RGB", first.size, BACKGROUND)] * between, last]]
    rows += [[to_image(frame) for frame in frames] for frames in shown.values()]
    return contact_sheet(rows, row_labels=["pictures", *shown])
