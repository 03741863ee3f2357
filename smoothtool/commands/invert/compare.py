"""`invert --compare`: every inversion on one picture, one labelled sheet, one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from smoothtool.commands.invert.cached import compute_inversion, note_convergence, unguided_reconstruction
from smoothtool.commands.shared.comparison import write_comparison
from smoothtool.commands.shared.cost import Cost, measured
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import SmoothtoolError
from smoothtool.figures import ComparedInversion, InvertFigures
from smoothtool.files.pictures.images import Fitted, crop_back
from smoothtool.jobs import INVERSION_NAMES
from smoothtool.metrics.reconstruction import reconstruction_quality
from smoothtool.types import Report, Track

if TYPE_CHECKING:
    from smoothtool.jobs import InvertJob


def compare_inversions(
    model: DiffusionModel, job: InvertJob, picture: Fitted, track: Track, report: Report[InvertFigures], folder: Path
) -> None:
    """Every inversion afresh, past the cache, beside the VAE alone, which is the ceiling."""
    original = crop_back(picture.pixel_values, picture)
    rows: list[ComparedInversion] = []
    shown = {"source": original}

    def add(name: str, latents: torch.Tensor, cost: Cost | None = None) -> None:
        given_back = crop_back(model.decode_latents(latents), picture)
        quality = reconstruction_quality(original, given_back)
        row: ComparedInversion = {
            "inversion": name,
            "mse": quality["mse"],
            "psnr_db": quality["psnr_db"],
            "ssim": quality["ssim"],
            "lpips": quality["lpips"],
            **(cost or Cost()).figures(),
        }
        rows.append(row)
        shown[name] = given_back

    add("VAE alone", model.encode_images(picture.pixel_values))
    for name in INVERSION_NAMES:
        try:
            with measured(model) as cost:
                wanted = job.model_copy(update={"inversion": name})
                inversion = compute_inversion(model, [picture], [job.src], wanted, track)
        except SmoothtoolError as error:
            track.note(f"{name} is left out: {error}")
            continue
        note_convergence(inversion, track)
        add(name, inversion.reconstruction, cost)
        if name == "ddim":
            with measured(model) as cost:
                unguided = unguided_reconstruction(model, inversion, track)
            add("ddim, guidance 1", unguided, cost)
    report.figures["compare"] = rows
    write_comparison(rows, shown, report, folder)
