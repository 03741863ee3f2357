"""What ISTD costs beside the bare UNet: the same number of calls on the same shapes, in one process.

    python tests/benchmarks/bench_istd.py [--model stickers] [--prompts 4] [--batch-size 22] [--steps 50] [--repeats 3]

Ours is a whole measurement from prompts to deviations: text encoder, noises, slerp, guidance, DDIM steps, VAE decoder,
distances. Bare is `unet(latents, timestep, text)` on both halves of guidance, and nothing else. The two take turns.
Prints the median seconds of each and their ratio; the bar is 1.15.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch

from smoothtool.diffusion.loading import load_model
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.files.lists.prompts import read_prompts
from smoothtool.methods.smoothness.istd import WalkSettings, prompt_groups, prompt_walks
from smoothtool.metrics.sequences import deviation
from smoothtool.weights.models import resolve_model
from smoothtool.weights.sample_pictures import DEFAULT_PROMPTS


@torch.no_grad()
def bare_calls(model: DiffusionModel, shapes: Sequence[tuple[int, ...]], steps: int) -> None:
    """One UNet call per step and batch."""
    for shape in shapes:
        latents, text = torch.randn(shape), torch.randn(shape[0], 77, model.unet.config.cross_attention_dim)
        for timestep in model.schedule.timesteps(steps):
            model.unet(latents, timestep, text)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="stickers")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=22)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    place = resolve_model(asked.model)
    model = load_model(place.folder, place.name, device="cpu")
    prompts = read_prompts(DEFAULT_PROMPTS)[: asked.prompts]
    settings = WalkSettings(0, model.noise_shape(None), num_inference_steps=asked.steps)
    groups = prompt_groups(prompts, settings.frames, asked.batch_size)
    shapes = [(2 * settings.frames * len(group), *settings.latent_shape) for group in groups]

    def ours() -> None:
        for walk in prompt_walks(model, prompts, settings, asked.batch_size):
            deviation(walk.pixel_values)

    calls = model.counter.calls
    ours()
    calls = model.counter.calls - calls
    bare_calls(model, shapes[:1], 2)
    pairs = [(seconds(ours), seconds(lambda: bare_calls(model, shapes, asked.steps))) for _ in range(asked.repeats)]
    whole, bare = (median(times) for times in zip(*pairs, strict=True))
    print(
        f"{asked.model}, {len(prompts)} walks of {settings.frames} pictures, {asked.steps} steps, "
        f"{torch.get_num_threads()} threads: {calls} calls of the model"
    )
    print(f"ISTD {whole:.2f} s, bare UNet {bare:.2f} s in {len(shapes) * asked.steps} calls, ratio {whole / bare:.3f}")


if __name__ == "__main__":
    main()
