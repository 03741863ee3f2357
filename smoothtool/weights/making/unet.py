"""Train the UNet of `stickers`, with its text encoder, on the latents of the scene pool.

Velocity prediction (Salimans & Ho 2022, arXiv:2202.00512; SD 2.1's kind) on SD's schedule, and prompt dropout of 10 %.
Why not noise prediction, SD 1.5's kind: at t = 981 (SNR 0.006) a caption's colour and concept are a sixteenth of the
output of a network that must first copy its input exactly, and 64 px scenes are decided there. From the same weights,
500 steps of 32 with noise prediction left an error of 0.83 (model's average, mean square of latents of variance 1)
at t = 981 with the right caption and 0.98 with a wrong one; 200 steps with velocity prediction 0.42 and 1.32.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from smoothtool.diffusion.ddim import Schedule
from smoothtool.weights.making.latents import pool_latents
from smoothtool.weights.making.loop import Run
from smoothtool.weights.making.pool import pool_caption
from smoothtool.weights.making.tokenizer import MAX_TOKENS, load_tokenizer, tokenize
from smoothtool.weights.making.vae import POOL

BATCH, PROMPT_DROPOUT = 32, 0.1
TEXT_FRACTION = 0.8  # of the steps the text encoder learns along; then it is frozen, and the CLIP builds on it
SCHEDULER = {
    "_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "set_alpha_to_one": False, "steps_offset": 1, "clip_sample": False,
    "timestep_spacing": "leading", "prediction_type": "v_prediction",
}  # fmt: skip


def build_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, layers_per_block=1, block_out_channels=(64, 128, 192),
        down_block_types=("CrossAttnDownBlock2D",) * 3, up_block_types=("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=128, attention_head_dim=4, norm_num_groups=16,
    )  # fmt: skip


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=128, intermediate_size=512, num_hidden_layers=3,
            num_attention_heads=4, max_position_embeddings=MAX_TOKENS, projection_dim=128,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


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
    text_encoder.load_state_dict({
        key.removeprefix("text_encoder."): value for key, value in weights.items() if key.startswith("text_encoder.")
    })  # fmt: skip
    return text_encoder.eval()


def train_unet(
    work: Path, steps: int, *, rate: float = 6e-4, start: Path | None = None, text_steps: int | None = None
) -> None:
    """Train to `work/unet.pt`.

    start: a model folder whose UNet and text encoder to go on from. text_steps: the text encoder learns along so far
    and no further; 0 keeps it, and with it the tiny CLIP, as it is.
    """
    text_steps = round(TEXT_FRACTION * steps) if text_steps is None else text_steps
    torch.manual_seed(0)
    tokenizer = load_tokenizer(work)
    model = Denoiser(build_unet(), build_text_encoder(tokenizer))
    if start is not None:
        unet = UNet2DConditionModel.from_pretrained(start, subfolder="unet", torch_dtype=torch.float32)
        model = Denoiser(unet, CLIPTextModel.from_pretrained(start, subfolder="text_encoder", dtype=torch.float32))
    model.unet.to(memory_format=torch.channels_last)  # with flushed denormals 12 % faster than the default on a CPU
    torch.set_flush_denormal(True)
    latents = pool_latents(work).contiguous(memory_format=torch.channels_last)
    alphas_cumprod = torch.tensor(Schedule.from_config(SCHEDULER).alphas_cumprod, dtype=torch.float32)
    run = Run("unet", model, work, rate=rate, steps=steps, average=0.998)

    def batch(indices: torch.Tensor, texts: list[str], generator: torch.Generator) -> torch.Tensor:
        count = len(indices)
        timesteps = torch.randint(0, 1000, (count,), generator=generator)
        noise = torch.randn((count, *latents.shape[1:]), generator=generator)
        alpha = alphas_cumprod[timesteps][:, None, None, None]
        noisy = alpha.sqrt() * latents[indices] + (1 - alpha).sqrt() * noise
        velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * latents[indices]
        return (model(noisy, timesteps, tokenize(tokenizer, texts)) - velocity).square().mean()

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        model.text_encoder.requires_grad_(step <= text_steps)
        rng = np.random.default_rng([3, step])
        indices = rng.integers(POOL, size=BATCH)
        texts = [pool_caption(int(i), step) if rng.random() > PROMPT_DROPOUT else "" for i in indices]
        return {"loss": batch(torch.from_numpy(indices), texts, torch.Generator().manual_seed(step))}

    run.train(loss_of)
