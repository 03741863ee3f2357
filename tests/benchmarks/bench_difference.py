"""Error of the regulariser's first-order gradients beside the double backward, against the length of the difference.

    python tests/benchmarks/bench_difference.py [--samples 12] [--predicts velocity noise] [--dtype float32] [--steps R]

Two models: `velocity` is the embedded one, which predicts velocities; `noise` is a UNet of its shape with random
weights that predicts noise. Both carry a LoRA away from its start. A sample is one of the sample pictures at one of as
many evenly spread times; its gradient is d L_reg / d LoRA. The truth is the double backward in float64 (for the forward
variation, which is another estimator, its own difference in float64 at 1e-6). Printed per length r, which is relative
to the noisy latents: median, 90 % quantile and worst of the relative error over the samples, and the worst over batches
of four with the regulariser's own weights. Too long a difference meets the model's curvature, too short a one rounding.

--dtype float16 and bfloat16 run the differences under autocast, as mixed precision does. About two minutes of one core.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from diffusers import UNet2DConditionModel
from torch.nn.attention import SDPBackend, sdpa_kernel

from smoothtool.diffusion.ddim import Schedule, noise_from_velocity
from smoothtool.diffusion.loading import load_model
from smoothtool.diffusion.lora import add_trainable_lora
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.files.pictures.images import fit_image, load_image
from smoothtool.methods.smoothness.step_variation import Gradient, NoisyBatch, Regularisation, variation_gradient
from smoothtool.training.difference import finite_difference_step
from smoothtool.types import Conditioning
from smoothtool.weights.models import resolve_model
from smoothtool.weights.sample_pictures import resolve_picture, sample_names

LENGTHS = (3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
DIFFERENCES: tuple[Gradient, ...] = ("central", "one-sided", "forward-variation")
BATCH = 4
EXACT = 1e-6
"""In float64 rounding and curvature are both below 1e-6 there."""


@dataclass(frozen=True)
class Sample:
    """One picture on its way to noise, in float64, and what the UNet is told."""

    batch: NoisyBatch
    timestep: torch.Tensor
    text: Conditioning

    def at(self, dtype: torch.dtype) -> NoisyBatch:
        return NoisyBatch(*(getattr(self.batch, name).to(dtype) for name in INPUTS))


INPUTS = ("latents", "noise", "probe", "alphas_cumprod", "loss_weights")


def opened(predicts: str) -> DiffusionModel:
    """The embedded model, or one of its shape that predicts noise, with a LoRA that changes something."""
    place = resolve_model("stickers")
    model = load_model(place.folder, place.name, device="cpu")
    torch.manual_seed(0)
    if predicts == "noise":
        unet = UNet2DConditionModel.from_config(model.unet.config).eval().requires_grad_(False)
        config = {**model.schedule.config, "prediction_type": "epsilon"}
        model = replace(model, unet=unet, schedule=Schedule.from_config(config))
    for parameter in add_trainable_lora(model.unet, 8, generator=torch.Generator().manual_seed(0)):
        parameter.data += 0.01 * torch.randn_like(parameter)
    return model


def samples(model: DiffusionModel, count: int) -> Iterator[Sample]:
    names = list(sample_names())
    pictures = [
        fit_image(
            load_image(resolve_picture(f"samples:{name}")),
            multiple=model.size_multiple,
            size=None,
            native_px=model.native_size_px,
        ).pixel_values
        for name in names
    ]
    latents = model.encode_images(torch.cat(pictures)).double()
    text = model.encode_prompts([f"a 3d {name} on a green background" for name in names])
    abar = torch.tensor(model.schedule.alphas_cumprod, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    times = ((torch.randperm(count, generator=generator) + 0.5) * len(abar) / count).long()
    for index in range(count):
        at, timestep = index % len(names), times[[index]]
        noise, probe = (torch.randn(latents[:1].shape, generator=generator).double() for _ in range(2))
        parts = (latents[[at]], noise, probe, abar[timestep], torch.ones(1, dtype=torch.float64))
        yield Sample(NoisyBatch(*parts), timestep, text[[at]])


def predictor(model: DiffusionModel, sample: Sample) -> Callable[[torch.Tensor], torch.Tensor]:
    """eps of latents in their own dtype, which is the UNet's too."""

    def predict(latents: torch.Tensor) -> torch.Tensor:
        embeds = sample.text.prompt_embeds.to(latents.dtype)
        out = model.unet(latents, sample.timestep, encoder_hidden_states=embeds).sample.to(latents.dtype)
        if model.schedule.prediction_type != "v_prediction":
            return out
        return noise_from_velocity(latents, out, sample.batch.alphas_cumprod.to(latents.dtype).view(-1, 1, 1, 1))

    return predict


def gradient(model: DiffusionModel, sample: Sample, kind: Gradient, length: float, dtype: torch.dtype) -> torch.Tensor:
    parameters = [p for p in model.unet.parameters() if p.requires_grad]
    exact = kind == "double-backward"
    with sdpa_kernel(SDPBackend.MATH) if exact else nullcontext():
        return variation_gradient(
            predictor(model, sample), sample.at(dtype), Regularisation(kind, 1.0, length), parameters
        ).double()


def autocast(dtype: str) -> AbstractContextManager[object]:
    return nullcontext() if dtype == "float32" else torch.autocast("cpu", dtype=getattr(torch, dtype))


def curve(
    model: DiffusionModel, drawn: list[Sample], kind: Gradient, lengths: list[float], dtype: str
) -> Iterator[tuple[float, torch.Tensor, float]]:
    """(r, relative errors of the samples [S], worst of a batch)."""
    fine = replace(model, unet=copy.deepcopy(model.unet).double())
    defined: Gradient = kind if kind == "forward-variation" else "double-backward"
    truth = torch.stack([gradient(fine, sample, defined, EXACT, torch.float64) for sample in drawn])
    weights = batch_weights(fine, drawn)
    for length in lengths:
        with autocast(dtype):
            found = torch.stack([gradient(model, sample, kind, length, torch.float32) for sample in drawn])
        batches = zip((weights * (found - truth)).split(BATCH), (weights * truth).split(BATCH), strict=True)
        worst = max(float(wrong.sum(dim=0).norm() / right.sum(dim=0).norm()) for wrong, right in batches)
        yield length, (found - truth).norm(dim=1) / truth.norm(dim=1), worst


def batch_weights(model: DiffusionModel, drawn: list[Sample]) -> torch.Tensor:
    """[S, 1] (n_i - mean n of its batch) / n_i: from the gradient of n_i^2 to what n_i has of a batch's L_reg."""
    norms = torch.cat([norm_of(model, sample) for sample in drawn])
    return torch.cat([(part - part.mean()) / part for part in norms.split(BATCH)])[:, None]


def norm_of(model: DiffusionModel, sample: Sample) -> torch.Tensor:
    from smoothtool.methods.smoothness.step_variation import noise_gradient

    parameters = [p for p in model.unet.parameters() if p.requires_grad]
    return noise_gradient(predictor(model, sample), sample.at(torch.float64), parameters).flatten(1).norm(dim=1)


def draw_curve(model: DiffusionModel, drawn: list[Sample], kind: Gradient, lengths: list[float], dtype: str) -> None:
    chosen = finite_difference_step(kind, model, mixed=dtype != "float32")
    shown = sorted({*lengths, *([chosen] if chosen else [])})
    print(
        f"\n{model.schedule.prediction_type}, {dtype}, {kind}: the trainer's length is "
        f"{f'{chosen:g}' if chosen else 'none: refused'}"
    )
    print(f"{'r':>8} {'median':>9} {'90 %':>9} {'worst':>9} {'batch':>9}")
    for length, errors, worst in curve(model, drawn, kind, shown, dtype):
        tenth = float(errors.quantile(0.9))
        bar = "#" * round(8 * max(0.0, 5 + torch.tensor(tenth).log10().item()))
        mark = "  <- the trainer's" if length == chosen else ""
        cells = (float(errors.median()), tenth, float(errors.max()), worst)
        print(f"{length:8.0e} " + " ".join(f"{cell:9.1e}" for cell in cells) + f"  {bar}{mark}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--predicts", nargs="*", default=["velocity", "noise"], choices=["velocity", "noise"])
    parser.add_argument("--gradients", nargs="*", default=list(DIFFERENCES), choices=DIFFERENCES)
    parser.add_argument("--dtype", nargs="*", default=["float32"], choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--steps", nargs="*", type=float, default=list(LENGTHS), help="lengths r")
    asked = parser.parse_args()
    for predicts in asked.predicts:
        model = opened(predicts)
        drawn = list(samples(model, asked.samples))
        for dtype in asked.dtype:
            for kind in asked.gradients:
                draw_curve(model, drawn, kind, asked.steps, dtype)


if __name__ == "__main__":
    main()
