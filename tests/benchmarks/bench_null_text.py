"""Shared null-text inversion of two pictures: our order of work beside the reference's, in one process.

    python tests/benchmarks/bench_null_text.py [--steps 50] [--model stickers]

The reference side is a plain transcription: one picture after another, weights that require gradients, the
conditional prediction computed at every inner step, one `item()` a step. Prints seconds, UNet calls, the largest
relative difference of the losses, the error of the reconstruction, and the ratios.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from reference_null_text import reference_null_text

from smoothtool.diffusion.loading import load_model
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import constant, denoise, per_step
from smoothtool.files.pictures.images import fit_image, load_image
from smoothtool.methods.inversion.ddim import ddim_inversion_steps, trajectory_of
from smoothtool.methods.inversion.null_text import Solver, adam_solver, gauss_newton_solver, null_text_steps
from smoothtool.types import Conditioning, LatentTrajectory
from smoothtool.weights.models import resolve_model
from smoothtool.weights.sample_pictures import resolve_picture

GUIDANCE = 7.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--model", default="stickers")
    parser.add_argument("--pictures", nargs=2, default=["samples:fox", "samples:cat"])
    captions = ["a 3d fox on a sky blue background", "a 3d cat on a green background"]
    parser.add_argument("--src", nargs=2, default=captions)
    arguments = parser.parse_args()
    place = resolve_model(arguments.model)
    model = load_model(place.folder, place.name, device="cpu")
    pictures = [
        fit_image(
            load_image(resolve_picture(name)), multiple=model.size_multiple, size=None, native_px=model.native_size_px
        )
        for name in arguments.pictures
    ]
    latents = model.encode_images(torch.cat([picture.pixel_values for picture in pictures]))
    text, null = model.encode_prompts(arguments.src), model.encode_prompts([""])
    trajectory = trajectory_of(latents, list(ddim_inversion_steps(model, latents, text, arguments.steps)))
    print(f"{arguments.model}, {arguments.steps} steps, two pictures, {torch.get_num_threads()} threads")

    model.unet.requires_grad_(True)
    seconds, calls, theirs = timed(model, lambda: reference_null_text(model, trajectory, text, null, GUIDANCE))
    model.unet.requires_grad_(False)
    error = path_error(model, trajectory, text, null, [embeds for embeds, _ in theirs])
    reference = seconds
    print(f"{'reference, Adam':24} {seconds:8.2f} s  {calls:5} calls  latent error {error:.2e}", flush=True)
    solvers: dict[str, Solver] = {
        "Adam": adam_solver(),
        **{f"Gauss-Newton, {iterations}": gauss_newton_solver(iterations) for iterations in (2, 4, 6)},
    }
    for name, solver in solvers.items():
        seconds, calls, steps = timed(
            model, lambda s=solver: list(null_text_steps(model, trajectory, text, null, GUIDANCE, s))
        )
        error = float((steps[-1].latents - latents).square().mean())
        line = (
            f"{name:24} {seconds:8.2f} s  {calls:5} calls  latent error {error:.2e}  {reference / seconds:.2f} x faster"
        )
        if name == "Adam":
            pairs = [
                (a, b)
                for ours, (_, losses) in zip(steps, theirs, strict=True)
                for a, b in zip(ours.losses, losses, strict=False)
            ]
            line += f"  losses differ by {max(abs(a - b) / max(b, 1e-4) for a, b in pairs):.1e}"
        print(line, flush=True)


def timed(model: DiffusionModel, work: Callable[[], Any]) -> tuple[float, int, Any]:
    before, started = model.counter.calls, time.perf_counter()
    result = work()
    return time.perf_counter() - started, model.counter.calls - before, result


def path_error(
    model: DiffusionModel,
    trajectory: LatentTrajectory,
    text: Conditioning,
    null: Conditioning,
    embeds: list[torch.Tensor],
) -> float:
    at = per_step(null, torch.stack(embeds))
    *_, last = denoise(model, trajectory.noise, constant(text), at, len(embeds), GUIDANCE)
    return float((last.latents - trajectory.image).square().mean())


if __name__ == "__main__":
    main()
