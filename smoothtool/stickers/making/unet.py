"""Train the UNet of `stickers`, with its text encoder, on the latents of the scene pool.

Velocity prediction (Salimans & Ho 2022, arXiv:2202.00512; SD 2.1's kind) on SD's schedule, and prompt dropout of 10 %.
Why not noise prediction, SD 1.5's kind: at t = 981 (SNR 0.006) a caption's colour and concept are a sixteenth of the
output of a network that must first copy its input exactly, and 64 px scenes are decided there. From the same weights,
500 steps of 32 with noise prediction left an error of 0.83 (model's average, mean square of latents of variance 1)
at t = 981 with the right caption and 0.98 with a wrong one; 200 steps with velocity prediction 0.42 and 1.32.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from smoothtool.diffusion.ddim import Schedule
from smoothtool.stickers.making.captured_training import train_captured
from smoothtool.stickers.making.latents import LatentPool
from smoothtool.stickers.making.shared_training import Batch, Plan, Station, share, train_shared
from smoothtool.stickers.making.tokenizer import MAX_TOKENS, load_tokenizer
from smoothtool.stickers.making.vae import same_vae

BATCH, PROMPT_DROPOUT = 32, 0.1
SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "clip_sample": False,
    "timestep_spacing": "leading",
    "prediction_type": "v_prediction",
}


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(64, 128, 192),
        down_block_types=("CrossAttnDownBlock2D",) * 3,
        up_block_types=("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=3,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=128,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class Denoiser(nn.Module):
    """Token ids, noisy latents and times to velocity: what is trained, in one piece."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
        embeds = self.text_encoder(input_ids=input_ids)[0]
        return self.unet(latents, timesteps, encoder_hidden_states=embeds, return_dict=False)[0]


def trained_text_encoder(work: Path, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """The text encoder as the UNet knows it: the weights it was frozen with, not their average."""
    text_encoder = build_text_encoder(tokenizer)
    weights = torch.load(work / "unet.pt", weights_only=True)["model"]
    text_encoder.load_state_dict(
        {key.removeprefix("text_encoder."): value for key, value in weights.items() if key.startswith("text_encoder.")}
    )
    return text_encoder.eval()


def noisy_batch(pool: LatentPool, alphas_cumprod: torch.Tensor, size: int, step: int | None) -> Batch:
    """Latents, times, targets and captions of one step: the same in whichever process it is asked for.

    step: what the random numbers follow from; None: torch's own generator, which a CUDA graph can hold.

    Times are stratified (one in each of `size` bands), which lowers the variance of the gradient for nothing.
    """
    generator = None if step is None else torch.Generator(pool.device).manual_seed(step)
    latents, input_ids = pool.draw(size, PROMPT_DROPOUT, generator)
    order = torch.rand(size, generator=generator, device=pool.device).argsort()
    within = torch.rand(size, generator=generator, device=pool.device)
    timesteps = ((order + within) * (1000 / size)).long().clamp(max=999)
    noise = torch.randn(latents.shape, generator=generator, device=pool.device)
    alpha = alphas_cumprod[timesteps][:, None, None, None]
    noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents
    return {"noisy": noisy, "velocity": velocity, "timesteps": timesteps, "input_ids": input_ids}


def new_denoiser(work: Path, start: Path | None) -> Denoiser:
    """From nothing, or from a model folder: the latents of another VAE mean other things, so its ends begin anew."""
    torch.manual_seed(0)
    model = Denoiser(build_unet(), build_text_encoder(load_tokenizer(work)))
    if start is not None:
        unet = UNet2DConditionModel.from_pretrained(start, subfolder="unet", torch_dtype=torch.float32)
        fresh = model.unet
        model = Denoiser(unet, CLIPTextModel.from_pretrained(start, subfolder="text_encoder", dtype=torch.float32))
        if not same_vae(work, start):
            unet.conv_in, unet.conv_out = fresh.conv_in, fresh.conv_out
    return model


def train_unet(
    work: Path, steps: int, *, start: Path | None = None, decay: int = 0, batch: int = BATCH, **options: Any
) -> None:
    """Train to step `steps` of `work/unet.pt`, or with `decay` a finished copy to `work/unet-decayed.pt`.

    start: a model folder to begin from where there is no checkpoint. decay: so many steps with a falling rate, from the
    checkpoint, which stays as it is. Other options are those of `Plan`.
    """
    path, branch = work / "unet.pt", work / "unet-decayed.pt"
    saved = torch.load(path, weights_only=True) if path.exists() else None
    done = saved["step"] if saved is not None else 0
    plan = Plan(done + 1, done + decay if decay else steps, batch=batch, decay=bool(decay), **options)
    shared = share(new_denoiser(work, start), saved, plan)
    train = train_shared if plan.device == "cpu" else train_captured
    train(shared, plan, branch if decay else path, partial(_station, work, batch, plan.device))


def _station(work: Path, batch: int, device: str) -> Station:
    """What each process needs."""
    pool = LatentPool(work, torch.device(device))
    alphas_cumprod = torch.tensor(Schedule.from_config(SCHEDULER).alphas_cumprod, dtype=torch.float32, device=device)

    def prediction_of(model: nn.Module, rows: Batch) -> torch.Tensor:
        return model(rows["noisy"], rows["timesteps"], rows["input_ids"])

    return partial(noisy_batch, pool, alphas_cumprod, batch), prediction_of
