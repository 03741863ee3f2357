"""DiffMorpher (Zhang et al., CVPR 2024, arXiv:2312.07409): a morph between two pictures that the model has learnt.

Each picture has an identity LoRA of its own: rank 16, `LORA_STEPS` steps at `LEARNING_RATE`, one noisy sample a step. A
frame at ratio r is sampled, at guidance 1 unless asked otherwise, in the form of its program:

    LoRA       A(r) = (1 - r) A_0 + r A_1, and B(r) alike
    noise      slerp of the two inversions, each made with its picture's LoRA,
               with the ends' channel-wise means and deviations, interpolated (AdaIN)
    attention  keys and values of the decoder's self-attention are computed from (1 - r) h_0 + r h_1,
               the two ends' hidden states, in the first 0.6 N steps

The program makes one frame after the other; here a UNet call holds many, each row under its own LoRA. The program
samples with the model's own scheduler; here it is DDIM, as its inversion is. It learns samples of the VAE's posterior,
we its mean. Frames equally far apart, the last part of the paper, are `rescheduled_ratios`; the program measures how
far by LPIPS, `interpolate` by L2. With the statistics of `adain` in both, ends and frames agree: on a small random
model, in float64, latents of up to 9.1 differ by 4e-6 at most, and by 0.025 with the program's own, which it applies to
the ends too. From the same start, noise and times, 60 steps of learning end in LoRAs that differ by 6e-8 at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch

from smoothtool.diffusion.attention import attention_layers, each_within
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.row_loras import LoraState, mix_loras, row_loras
from smoothtool.diffusion.sampling import DenoisingStep, constant, denoise
from smoothtool.methods.interpolation.rescheduling import adain
from smoothtool.methods.interpolation.walk import walk_starts, walk_text
from smoothtool.methods.inversion.ddim import InversionStep, ddim_inversion_steps
from smoothtool.types import Conditioning

LORA_STEPS, LEARNING_RATE, BATCH = 200, 2e-4, 1
"""How the program learns a picture."""
SHARED_TO = 0.6
"""lambda: part of the steps in which the frames look through the ends' keys and values."""


def learnt_inversion_steps(
    model: DiffusionModel,
    latents: torch.Tensor,
    text: Conditioning,
    loras: Sequence[LoraState],
    num_inference_steps: int,
) -> Iterator[InversionStep]:
    """DDIM inversion of K pictures [K, C, h, w] together, each under its own text [K, L, D] and LoRA."""
    own = mix_loras(loras, torch.eye(len(loras), device=latents.device))
    steps = ddim_inversion_steps(model, latents, text, num_inference_steps)
    return each_within(steps, lambda: row_loras(model.unet, own))


def learnt_sampling_steps(
    model: DiffusionModel,
    noise: torch.Tensor,
    text: Conditioning,
    loras: Sequence[LoraState],
    num_inference_steps: int,
    *,
    null: Conditioning | None = None,
    guidance_scale: float = 1.0,
) -> Iterator[DenoisingStep]:
    """The way back: K pictures from their noise [K, C, h, w], which are the ends of morphs.

    null  [1, L, D], for a guidance other than 1; both halves of it are under the picture's LoRA
    """
    own = mix_loras(loras, torch.eye(len(loras), device=noise.device).repeat(_halves(guidance_scale), 1))
    null_at = constant(text if null is None else null)
    steps = denoise(model, noise, constant(text), null_at, num_inference_steps, guidance_scale)
    return each_within(steps, lambda: row_loras(model.unet, own))


def diffmorpher_steps(
    model: DiffusionModel,
    noise: torch.Tensor,
    text: Conditioning,
    loras: Sequence[LoraState],
    ratios: Sequence[float],
    num_inference_steps: int,
    shared_to: float = SHARED_TO,
    *,
    null: Conditioning | None = None,
    guidance_scale: float = 1.0,
) -> Iterator[DenoisingStep]:
    """Sample the frames at these ratios between two ends; steps hold the in-betweens [n, C, h, w].

    noise, text, loras  of the two pictures: [2, C, h, w], [2, L, D], two states
    null                [1, L, D], for a guidance other than 1; both halves of it are treated alike
    The ends are sampled along with every chunk of frames that one UNet call holds, because the frames look at them.
    """
    halves = _halves(guidance_scale)
    most = max(1, model.max_batch // halves - 2)

    def sampled(part: Sequence[float]) -> Iterator[DenoisingStep]:
        """Both ends and the frames of these ratios, [part + 2, C, h, w] a step."""
        between = adain(walk_starts(noise, part), noise[0], noise[1], part)
        frame_text = Conditioning.cat([text[:1], walk_text(text, part), text[1:]])
        places = torch.tensor([0.0, *part, 1.0], device=noise.device)
        own = mix_loras(loras, torch.stack([1 - places, places], dim=1).repeat(halves, 1))
        starts = torch.cat([noise[:1], between, noise[1:]])
        null_at = constant(frame_text if null is None else null)
        steps = denoise(model, starts, constant(frame_text), null_at, num_inference_steps, guidance_scale)
        for step_index in range(num_inference_steps):
            with row_loras(model.unet, own), ExitStack() as stack:
                if step_index < shared_to * num_inference_steps:
                    stack.enter_context(keys_between_ends(model.unet, places, halves))
                step = next(steps)
            yield step

    chunks = [sampled(ratios[at : at + most]) for at in range(0, len(ratios), most)]
    for parts in zip(*chunks, strict=True):
        latents, noise_pred = (
            torch.cat([getattr(part, name)[1:-1] for part in parts]) for name in ("latents", "noise_pred")
        )
        yield replace(parts[0], latents=latents, noise_pred=noise_pred)


def _halves(guidance_scale: float) -> int:
    """Parts of a UNet call: null and text rows, or text rows alone."""
    return 1 if guidance_scale == 1 else 2


@contextmanager
def keys_between_ends(unet: torch.nn.Module, ratios: torch.Tensor, halves: int = 1) -> Iterator[None]:
    """For a while, the decoder's self-attention takes keys and values from the two ends' hidden states, interpolated.

    ratios  [rows] of a half of a UNet call whose first row is one end and whose last row is the other: 0, …, 1
    halves  2 when null and text rows come as one batch, else 1
    """

    def between(module: torch.nn.Module, args: tuple[torch.Tensor, ...], kwargs: dict[str, Any]) -> Any:
        """Hidden states [rows, Q, C] -> the same, and (1 - r) h_first + r h_last of each half for keys and values."""
        share = ratios.to(args[0]).view(-1, 1, 1)
        mixed = [torch.lerp(half[:1], half[-1:], share) for half in args[0].chunk(halves)]
        return args, {**kwargs, "encoder_hidden_states": torch.cat(mixed)}

    with ExitStack() as stack:
        for layer in attention_layers(unet):
            if layer.part == "up" and not layer.is_cross:
                stack.callback(layer.module.register_forward_pre_hook(between, with_kwargs=True).remove)
        yield
