"""Train the VAE of `stickers`: AutoencoderKL, downsampling 4, four latent channels, fully convolutional.

Two stages. `vae` trains encoder and decoder on crops; `decoder` freezes the encoder, so that latents keep their
meaning, and sharpens the decoder alone: it may run beside the UNet's training and be repeated later.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from smoothtool.files.storage.writing import atomic_path
from smoothtool.stickers.making.loop import Run
from smoothtool.stickers.world.pool import draw_pool, held_out_pixel_values, to_pixel_values

CROP_PX, BATCH, POOL = 32, 32, 24_000
KL_WEIGHT = 5e-6
SCALING_FACTOR = 0.18215


def build_vae() -> AutoencoderKL:
    vae = AutoencoderKL(
        block_out_channels=(32, 64, 128),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,  # convolutions only: trains on crops, runs on any size
        latent_channels=4,
        sample_size=64,
    )
    with torch.no_grad():  # latents begin nearly free of noise: from a standard deviation of 1 training collapses
        vae.quant_conv.bias[4:] = -6.0
    return vae


def picture_loss(reconstruction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 + L1 of the picture's gradients + 4 MSE: sharp edges, flat backgrounds, and PSNR."""
    rows = (reconstruction.diff(dim=2) - target.diff(dim=2)).abs().mean()
    columns = (reconstruction.diff(dim=3) - target.diff(dim=3)).abs().mean()
    return F.l1_loss(reconstruction, target) + rows + columns + 4 * F.mse_loss(reconstruction, target)


def _crops(pictures: np.ndarray, rng: np.random.Generator) -> torch.Tensor:
    crops = []
    for index in np.sort(rng.integers(len(pictures), size=BATCH)):
        top, left = rng.integers(0, 64 - CROP_PX + 1, size=2)
        crops.append(pictures[index, top : top + CROP_PX, left : left + CROP_PX])
    return to_pixel_values(np.stack(crops))


@torch.no_grad()
def vae_psnr_db(vae: AutoencoderKL, pixel_values: torch.Tensor) -> float:
    """Mean over pictures of the PSNR of encode-decode (posterior mean), peak 2 in [-1, 1]."""
    out = vae.decode(vae.encode(pixel_values).latent_dist.mean).sample.clamp(-1, 1)
    return float((10 * torch.log10(4 / (out - pixel_values).square().mean(dim=(1, 2, 3)))).mean())


@torch.no_grad()
def normalised_vae(work: Path) -> AutoencoderKL:
    """The trained VAE with latents of zero mean and, after SD's own scaling factor, unit variance per channel.

    The affine change is folded into the 1x1 convolutions on both sides of the latents, so pictures do not change.
    """
    path, vae = work / "vae-normalised.pt", build_vae()
    if path.exists():
        vae.load_state_dict(torch.load(path, weights_only=True))
        return vae
    vae.load_state_dict(torch.load(work / "vae.pt", weights_only=True)["averaged"])
    pictures = to_pixel_values(draw_pool(work, POOL)[:1024])
    latents = torch.cat([vae.encode(part).latent_dist.mean for part in torch.split(pictures, 64)])
    mean = latents.mean(dim=(0, 2, 3))
    scale = 1 / (latents.std(dim=(0, 2, 3)) * SCALING_FACTOR)
    into, out = vae.quant_conv, vae.post_quant_conv
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight /= scale[None, :, None, None]
    into.weight[:4] *= scale[:, None, None, None]
    into.bias[:4] = (into.bias[:4] - mean) * scale
    into.bias[4:] += 2 * scale.log()  # the variance follows
    with atomic_path(path) as temporary:
        torch.save(vae.state_dict(), temporary)
    return vae


def same_vae(work: Path, folder: Path) -> bool:
    """Whether the encoder of a model folder is the one of `work`: latents mean the same, to float16."""
    theirs = AutoencoderKL.load_config(folder / "vae")
    if list(theirs["block_out_channels"]) != list(build_vae().config.block_out_channels):
        return False
    vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
    mine, other = normalised_vae(work).quant_conv.weight, vae.quant_conv.weight
    return torch.allclose(mine, other, atol=1e-3, rtol=1e-2)


def train_vae(work: Path, steps: int, *, decoder_only: bool = False, rate: float = 1e-3) -> None:
    """Train to `work/vae.pt`, or with `decoder_only` from its normalised weights to `work/decoder.pt`."""
    torch.manual_seed(0)
    vae = normalised_vae(work) if decoder_only else build_vae()
    if decoder_only:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    pictures, unseen = draw_pool(work, POOL), held_out_pixel_values(work, 96)
    run = Run("decoder" if decoder_only else "vae", vae, work, rate=rate, steps=steps, weight_decay=0.0, average=0.995)

    def forward(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        with torch.set_grad_enabled(not decoder_only):
            mean, logvar = vae.quant_conv(vae.encoder(x)).chunk(2, dim=1)
        z = mean if decoder_only else mean + torch.randn_like(mean) * (0.5 * logvar).exp()
        return vae.decoder(vae.post_quant_conv(z)), mean, logvar

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        x = _crops(pictures, np.random.default_rng([int(decoder_only), step]))
        out, mean, logvar = forward(x)
        loss = picture_loss(out, x)
        if decoder_only:
            return {"loss": loss}
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3)).mean()
        return {"loss": loss + KL_WEIGHT * kl, "kl": kl}

    def measure() -> dict[str, float]:
        averaged = build_vae()
        averaged.load_state_dict(run.averaged_weights())
        return {"psnr_db": vae_psnr_db(averaged, unseen)}

    run.train(loss_of, measure=measure)
