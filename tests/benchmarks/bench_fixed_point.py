"""SPDInv's and DCI's equation by three solvers: what is left of each step after so many UNet calls, and what it costs.

    python tests/benchmarks/bench_fixed_point.py [--steps 50] [--rounds 10] [--model stickers] [--dci]

The curve: root mean square of f(z) - z by UNet calls a step, mean and worst over the steps; AdamW's calls also go
backward. The table: calls, seconds and the picture's error in latents when every step stops at the papers' threshold
(a mean square of 5e-6, at most 25 rounds) and the noise is sampled back under the source prompt.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from smoothtool.diffusion.loading import load_model
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import constant, denoise
from smoothtool.files.drawing.markdown import markdown_table
from smoothtool.files.pictures.images import fit_image, load_image
from smoothtool.methods.inversion.dci import dci_steps
from smoothtool.methods.inversion.fixed_point_solvers import adamw_solver, anderson_solver, plain_solver
from smoothtool.methods.inversion.spdinv import spdinv_steps
from smoothtool.types import Conditioning
from smoothtool.weights.models import resolve_model
from smoothtool.weights.sample_pictures import resolve_picture

SOLVERS = {"AdamW": adamw_solver, "plain": plain_solver, "Anderson": anderson_solver}
FAR = 1e6
"""A residual past telling, so that a mean is still a number."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--model", default="stickers")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--picture", default="samples:fox")
    parser.add_argument("--src", default="a 3d fox on a sky blue background")
    parser.add_argument("--dci", action="store_true", help="DCI's equation instead of SPDInv's")
    options = parser.parse_args()
    place = resolve_model(options.model)
    model = load_model(place.folder, place.name, device=options.device)
    picture = fit_image(
        load_image(resolve_picture(options.picture)),
        multiple=model.size_multiple,
        size=None,
        native_px=model.native_size_px,
    )
    latents, text = model.encode_images(picture.pixel_values), model.encode_prompts([options.src])
    steps = partial(dci_steps if options.dci else spdinv_steps, model, latents, text, options.steps)
    curves = {
        name: torch.stack([step.residuals[:, 0].clamp(max=FAR) for step in steps(make(options.rounds, 0.0))])
        for name, make in SOLVERS.items()
    }
    print(
        markdown_table(
            [
                {
                    "calls a step": at + 1,
                    **{
                        f"{name}, {what}": float(f"{value(curve[:, at]):.2e}")
                        for name, curve in curves.items()
                        for what, value in (("mean", torch.mean), ("worst", torch.max))
                    },
                }
                for at in range(options.rounds + 1)
            ]
        )
    )
    print(markdown_table([cost(model, latents, text, steps, name, options.steps) for name in SOLVERS]))


def cost(
    model: DiffusionModel, latents: torch.Tensor, text: Conditioning, steps: Callable[..., Any], name: str, count: int
) -> dict[str, object]:
    """One line: the solver until the papers' threshold, and the way back."""
    calls, started = model.counter.calls, time.perf_counter()
    done = list(steps(SOLVERS[name]()))
    calls, seconds = model.counter.calls - calls, time.perf_counter() - started
    *_, back = denoise(model, done[-1].latents, constant(text), constant(text), count, 1.0)
    worst = max(float(step.residuals[-1]) for step in done)
    error = float((back.latents - latents).square().mean())
    return {"solver": name, "calls a step": calls / count, "seconds": seconds, "worst residual": worst, "error": error}


if __name__ == "__main__":
    main()
