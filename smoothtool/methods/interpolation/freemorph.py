"""FreeMorph (Cao et al., ICCV 2025, arXiv:2507.01953): a morph from two pictures, without learning them first.

The frames, ends included, are mixed as clean latents, inverted together, given the same fine noise, and denoised
together; all along, their attention is drawn towards each other and towards the two ends. In the form of its program:

1. z_0(r) = slerp of the two pictures' latents, row by row; the text is lerped.
2. Inversion of 0.8 N steps at guidance 1, each solved by five rounds of z_t <- ddim_step(z_s, eps(z_t)). Attention is
   plain in the first 0.3 N steps, then every frame's is the mean over the frames, and from 0.6 N on the mean of looking
   at the first and at the last frame.
3. Outside a centred square of low frequencies the inner frames' spectrum is that of one noise.
4. Denoising with guidance. The text half looks through the ends, (1 - c) Attn(Q, K_0, V_0) + c Attn(Q, K_1, V_1), in
   the first fifth of these steps; to three fifths through its own keys and values as well (AID); then plainly.
   c is the quantile of Beta(20, 20) at the frame's ratio: most frames stay near the middle.

What differs from the program: it runs at times one lower than the model's own sampling times, draws z_0 from the VAE's
posterior instead of taking its mean, gives the last in-between of seven frames the square of those in the middle, and
turns the velocity that an inversion step predicts at time t into noise as if it were of time s: not what denoising,
which it is to undo, does. Its first and last frames are the pictures themselves, ours what the VAE gives back of them.
But for these the two agree: on a small random model that predicts noise, in float64, latents of up to 9.9 differ by
5e-6 at most, and by 0.4 with the program's times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from math import comb

import torch

from smoothtool.diffusion.attention import (
    Attend,
    AttentionLayer,
    CopiedOnce,
    attention_layers,
    controlled_attention,
    fused_attention,
)
from smoothtool.diffusion.ddim import ddim_step
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import guide
from smoothtool.errors import UsageError
from smoothtool.methods.interpolation.slerp import PARALLEL_COSINE
from smoothtool.methods.interpolation.walk import walk_text
from smoothtool.types import Conditioning

STRENGTH = 0.8
"""Part of the steps that the pictures are inverted."""
ROUNDS = 5
"""UNet calls of an inversion step."""
PLAIN_TO, MEAN_TO = 0.3, 0.6
"""Parts of all N steps: where the inversion's attention changes."""
ENDS_TO, FUSED_TO = 0.2, 0.6
"""Parts of the denoising steps: where the sampling's attention changes."""
BETA = 20
LOW_FREQUENCIES, LOW_FREQUENCIES_NEXT_TO_ENDS = 42 / 48, 44 / 48
"""Half the side of the square whose frequencies a frame keeps, as a share of the highest frequency."""


@dataclass(frozen=True)
class FreeMorphStep:
    """One step done: `latents` [n, C, h, w] of the in-betweens; `inverting` tells on which of the two ways."""

    step_index: int
    latents: torch.Tensor
    inverting: bool


def freemorph_length(num_inference_steps: int) -> int:
    """How many steps the generator makes, both ways together."""
    return 2 * int(STRENGTH * num_inference_steps)


@torch.no_grad()
def freemorph_steps(
    model: DiffusionModel,
    latents: torch.Tensor,
    text: Conditioning,
    null: Conditioning,
    noise: torch.Tensor,
    ratios: Sequence[float],
    num_inference_steps: int,
    guidance_scale: float,
) -> Iterator[FreeMorphStep]:
    """Invert the mixed pictures, then denoise them; the last step holds the in-betweens at the image end.

    latents  [2, C, h, w] z_0 of the two pictures
    text     [2, L, D]; null [1, L, D]
    noise    [1, C, h, w], whose fine detail all in-betweens share
    ratios   n of the in-betweens, between 0 and 1
    Raises: UsageError when the frames are more than one UNet call holds, for they see each other, or when its
    share of the steps is none.
    """
    if not freemorph_length(num_inference_steps):
        raise UsageError(f"1 step is too few for freemorph, which takes {STRENGTH:.0%} of them", "--steps 2 or more")
    places = (0.0, *ratios, 1.0)
    if len(places) > model.max_batch:
        raise UsageError(
            f"freemorph makes all frames in one UNet call, which holds {model.max_batch} here with both ends, "
            f"not {len(places)}",
            f"--frames {max(1, model.max_batch - 2)}",
        )
    frames = torch.stack([slerp_rows(latents[0], latents[1], place) for place in places])
    frame_text = Conditioning.cat([text[:1], walk_text(text, ratios), text[1:]])
    for step in _inversion(model, frames, frame_text, num_inference_steps):
        frames = step.latents
        yield FreeMorphStep(step.step_index, frames[1:-1], inverting=True)
    frames = torch.cat([frames[:1], with_shared_detail(frames[1:-1], noise), frames[-1:]])
    mixing = beta_quantiles(places)
    for step in _sampling(model, frames, frame_text, null, mixing, num_inference_steps, guidance_scale):
        yield FreeMorphStep(step.step_index, step.latents[1:-1], inverting=False)


def _inversion(
    model: DiffusionModel, latents: torch.Tensor, text: Conditioning, num_inference_steps: int
) -> Iterator[FreeMorphStep]:
    """All frames [F, C, h, w] from the image towards the noise."""
    plain_to, mean_to = int(PLAIN_TO * num_inference_steps), int(MEAN_TO * num_inference_steps)
    pairs = model.schedule.alpha_pairs(num_inference_steps)
    for done in range(int(STRENGTH * num_inference_steps)):
        step_index = num_inference_steps - 1 - done
        timestep, alpha_prod, alpha_prod_previous = pairs[step_index]
        # both bounds themselves are plain steps: so it is in the program
        attend = _mean_of_frames if plain_to < done < mean_to else through_ends([0.5]) if done > mean_to else None
        estimate = latents
        with _attending(model.unet, attend, len(latents)):
            for _ in range(ROUNDS):
                noise = model.predict_noise(estimate, timestep, text)
                estimate = ddim_step(latents, noise, alpha_prod_previous, alpha_prod)
        latents = estimate
        yield FreeMorphStep(step_index, latents, inverting=True)


def _sampling(
    model: DiffusionModel,
    latents: torch.Tensor,
    text: Conditioning,
    null: Conditioning,
    mixing: Sequence[float],
    num_inference_steps: int,
    guidance_scale: float,
) -> Iterator[FreeMorphStep]:
    """All frames [F, C, h, w] back to the image; only the text half attends otherwise than plainly."""
    count = int(STRENGTH * num_inference_steps)
    start, null = num_inference_steps - count, null.expand(len(latents))
    for step_index, pair in list(enumerate(model.schedule.alpha_pairs(num_inference_steps)))[start:]:
        timestep, alpha_prod, alpha_prod_next = pair
        done = step_index - start
        ends, fused = done < int(ENDS_TO * count), done < int(FUSED_TO * count)
        attend = through_ends(mixing, with_own=not ends) if fused else None
        with _attending(model.unet, attend, len(latents)):
            noise = model.predict_noise(latents, timestep, text)
        if guidance_scale != 1:
            noise = guide(model.predict_noise(latents, timestep, null), noise, guidance_scale)
        latents = ddim_step(latents, noise, alpha_prod, alpha_prod_next)
        yield FreeMorphStep(step_index, latents, inverting=False)


def _attending(unet: torch.nn.Module, attend: Attend | None, rows: int) -> AbstractContextManager[None]:
    """Self- and cross-attention computed by `attend`, or plainly."""
    return nullcontext() if attend is None else controlled_attention(attention_layers(unet), attend, rows)


def _mean_of_frames(layer: AttentionLayer, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return fused_attention(query, key, value).mean(dim=0, keepdim=True).expand_as(query)


def through_ends(mixing: Sequence[float], *, with_own: bool = False) -> Attend:
    """(1 - c) Attn(Q, K_first, V_first) + c Attn(Q, K_last, V_last), first and last being rows of the UNet call.

    mixing    c of every row, or one for all
    with_own  each row's own keys and values stand beside those of either end
    """

    shares = CopiedOnce(torch.tensor(list(mixing), dtype=torch.float64, device="cpu").view(-1, 1, 1, 1))

    def attend(layer: AttentionLayer, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """[rows, heads, Q, d], as `Attend` says."""

        def towards(row: slice) -> torch.Tensor:
            """Attn(Q, K_row, V_row) of all rows."""
            both = [part[row].expand_as(part) for part in (key, value)]
            if with_own:
                both = [torch.cat([own, end], dim=2) for own, end in zip((key, value), both, strict=True)]
            return fused_attention(query, *both)

        share = shares.like(query)
        return (1 - share) * towards(slice(0, 1)) + share * towards(slice(-1, None))

    return attend


def slerp_rows(first: torch.Tensor, last: torch.Tensor, ratio: float) -> torch.Tensor:
    """Spherical interpolation of every row of latents [C, h, w] by itself, in float64; parallel ones are lerped."""
    a, b = first.cpu().double(), last.cpu().double()  # MPS has no float64
    cosine = (a * b).sum(-1, keepdim=True) / (a.norm(dim=-1, keepdim=True) * b.norm(dim=-1, keepdim=True))
    straight = ~(cosine.abs() <= PARALLEL_COSINE)  # a row of zeros has no angle: NaN is straight too
    angle = torch.where(straight, 1.0, cosine.clamp(-1, 1).acos())
    curved = (torch.sin((1 - ratio) * angle) * a + torch.sin(ratio * angle) * b) / torch.sin(angle)
    return torch.where(straight, torch.lerp(a, b, ratio), curved).to(first)


def with_shared_detail(latents: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """In-betweens [n, C, h, w] whose spectrum outside a centred square is that of the noise [1, C, h, w]."""
    detail = torch.fft.fftshift(torch.fft.fft2(noise.float()), dim=(-2, -1))
    own = torch.fft.fftshift(torch.fft.fft2(latents.float()), dim=(-2, -1))
    mixed = detail.expand_as(own).clone()
    for index in range(len(latents)):
        outermost = index in (0, len(latents) - 1)
        rows, cols = (
            _centred(side, LOW_FREQUENCIES_NEXT_TO_ENDS if outermost else LOW_FREQUENCIES)
            for side in latents.shape[-2:]
        )
        mixed[index, :, rows, cols] = own[index, :, rows, cols]
    return torch.fft.ifft2(torch.fft.ifftshift(mixed, dim=(-2, -1))).real.to(latents)


def _centred(side: int, share: float) -> slice:
    """The part of a centred spectrum of this length that is kept."""
    half = round(share * (side // 2))
    return slice(side // 2 - half, side // 2 + half)


def beta_quantiles(ratios: Sequence[float], shape: int = BETA) -> list[float]:
    """x with I_x(a, a) = ratio, the quantile function of Beta(a, a) for a whole number a, by halving.

    I_x(a, a) = sum_{k >= a} C(2a - 1, k) x^k (1 - x)^(2a - 1 - k): the chance of a heads or more in 2a - 1 throws.
    """
    throws = 2 * shape - 1

    def below(x: float) -> float:
        """I_x(a, a)."""
        return sum(comb(throws, k) * x**k * (1 - x) ** (throws - k) for k in range(shape, throws + 1))

    def quantile(ratio: float) -> float:
        """x within 2^-50."""
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (middle, high) if below(middle) < ratio else (low, middle)
        return (low + high) / 2

    return [ratio if ratio in (0.0, 1.0) else quantile(ratio) for ratio in ratios]
