"""The walks of ISTD, interpolation standard deviation (Smooth Diffusion, Guo et al. 2024, arXiv:2312.04410, sec. 4).

Per prompt: two Gaussian noises, F pictures at slerp ratios 0, 1/(F-1), …, 1, the F - 1 L2 distances d_i between
adjacent pictures, and their standard deviation. ISTD is its mean over prompts:

    ISTD = mean over prompts of std(d_1, …, d_{F-1})

Here the walks are made; `smoothtool.metrics.sequences.deviation` measures them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from smoothtool.diffusion.memory import failing_in_time
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import constant, denoise
from smoothtool.errors import ModelError, UsageError, out_of_memory
from smoothtool.methods.interpolation.slerp import slerp

Row = tuple[str, float]
"""One picture to make: its prompt and its place on the walk."""


@dataclass(frozen=True)
class WalkSettings:
    """What every walk of one measurement shares; `latent_shape` is (C, h, w)."""

    seed: int
    latent_shape: tuple[int, int, int]
    frames: int = 11
    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    negative: str = ""


@dataclass(frozen=True)
class PromptWalk:
    """One prompt's pictures: `pixel_values` [F, 3, H, W] in [-1, 1], a picture that came out as NaN is all NaN."""

    prompt: str
    pixel_values: torch.Tensor


def prompt_walks(
    model: DiffusionModel, prompts: Sequence[str], settings: WalkSettings, batch_size: int = 32
) -> Iterator[PromptWalk]:
    """Sample the walks in the order of the prompts, as many whole walks at a time as `batch_size` pictures hold, and
    half as many from where memory runs out.

    The noises depend on the seed and the prompt's text alone, so neither batch size, order nor selection of prompts
    changes a walk, but for rounding: which pictures are computed together decides the last bits. Walks in the groups of
    `prompt_groups` are the same to the bit.
    Raises: UsageError without prompts, or for fewer than two frames.
    """
    if not prompts:
        raise UsageError("there are no prompts to walk under", "a prompt file with one prompt a line")
    if settings.frames < 2:
        raise UsageError(f"a walk of {settings.frames} frames has no adjacent ones", "--frames 11")
    left = list(prompts)
    while left:
        group = prompt_groups(left, settings.frames, batch_size)[0]
        pictures = _pictures_that_fit(model, group, settings, batch_size)
        if pictures is None:
            batch_size //= 2
            continue
        for at, prompt in enumerate(group):
            yield PromptWalk(prompt, pictures[at * settings.frames : (at + 1) * settings.frames])
        left = left[len(group) :]


def prompt_groups(prompts: Sequence[str], frames: int, batch_size: int) -> list[Sequence[str]]:
    """The prompts that are walked together: those whose walks fill one batch, or one whose walk fills several."""
    size = max(1, batch_size // frames)
    return [prompts[at : at + size] for at in range(0, len(prompts), size)]


def _pictures_that_fit(
    model: DiffusionModel, prompts: Sequence[str], settings: WalkSettings, batch_size: int
) -> torch.Tensor | None:
    """The pictures [prompts x F, 3, H, W] of whole walks; None when memory runs out, and fewer at a time may do."""
    ratios = [index / (settings.frames - 1) for index in range(settings.frames)]
    rows = [(prompt, ratio) for prompt in prompts for ratio in ratios]
    chunks = [rows[at : at + batch_size] for at in range(0, len(rows), batch_size)]
    try:
        with failing_in_time(model.device) if batch_size > 1 else nullcontext():
            return torch.cat([_decode(model, _sample(model, chunk, settings)) for chunk in chunks])
    except (RuntimeError, MemoryError) as error:
        if batch_size == 1 or not out_of_memory(error):
            raise
    if model.device.type == "cuda":  # past the handler, which holds on to what did not fit
        torch.cuda.empty_cache()
    return None


def prompt_noises(seed: int, prompt: str, latent_shape: tuple[int, ...]) -> torch.Tensor:
    """The two noise ends [2, C, h, w] of a prompt, drawn on the CPU so that every device walks the same way."""
    digest = hashlib.sha256(f"{seed}\n{prompt}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.randn((2, *latent_shape), generator=generator, device="cpu")


def _sample(model: DiffusionModel, rows: Sequence[Row], settings: WalkSettings) -> torch.Tensor:
    """Rows -> latents [B, C, h, w] at the image end."""
    prompts = [prompt for prompt, _ in rows]
    ends = {prompt: prompt_noises(settings.seed, prompt, settings.latent_shape) for prompt in set(prompts)}
    starts = torch.stack([slerp(ends[prompt][0], ends[prompt][1], ratio) for prompt, ratio in rows]).to(model.device)
    text, null = constant(model.encode_prompts(prompts)), constant(model.encode_null(settings.negative))
    *_, last = denoise(model, starts, text, null, settings.num_inference_steps, settings.guidance_scale)
    return last.latents


def _decode(model: DiffusionModel, latents: torch.Tensor) -> torch.Tensor:
    """pixel_values [B, 3, H, W]; where one picture is not finite, it alone becomes NaN and the others stay."""
    try:
        return model.decode_latents(latents)
    except ModelError:
        if len(latents) > 1:
            return torch.cat([_decode(model, row[None]) for row in latents])
        height, width = (side * model.vae_scale_factor for side in latents.shape[-2:])
        return torch.full((1, 3, height, width), torch.nan, device="cpu")
