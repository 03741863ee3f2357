"""What the VAE makes of the scene pool: its latents, which the UNet learns, and its pictures, which the judges see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from smoothtool.weights.making.pool import draw_pool, to_pixel_values
from smoothtool.weights.making.vae import POOL, SCALING_FACTOR, normalised_vae

DECODED = 6_000


def trained_vae(work: Path) -> AutoencoderKL:
    """The normalised VAE, with the sharpened decoder where there is one."""
    vae = normalised_vae(work)
    if (work / "decoder.pt").exists():
        vae.load_state_dict(torch.load(work / "decoder.pt", weights_only=True)["averaged"])
    vae.register_to_config(scaling_factor=SCALING_FACTOR)
    return vae.eval()


@torch.no_grad()
def pool_latents(work: Path) -> torch.Tensor:
    """[POOL, 4, 16, 16] scaled latents of the pool, computed once."""
    path = work / "latents.pt"
    if not path.exists():
        vae, pictures = normalised_vae(work), draw_pool(work, POOL)
        parts = [vae.encode(to_pixel_values(pictures[at : at + 64])).latent_dist.mean for at in range(0, POOL, 64)]
        torch.save(torch.cat(parts) * SCALING_FACTOR, path)
    return torch.load(path, weights_only=True)


@torch.no_grad()
def decoded_pool(work: Path) -> np.ndarray:
    """uint8 [DECODED, 64, 64, 3]: the pool's first pictures as the VAE gives them back; anew for a newer decoder."""
    path, decoder = work / f"decoded-{DECODED}.npy", work / "decoder.pt"
    if not path.exists() or (decoder.exists() and decoder.stat().st_mtime > path.stat().st_mtime):
        vae, parts = trained_vae(work), []
        for latents in pool_latents(work)[:DECODED].split(64):
            pictures = vae.decode(latents / SCALING_FACTOR).sample.clamp(-1, 1)
            parts.append(((pictures + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
        temporary = path.with_suffix(".tmp.npy")
        np.save(temporary, np.concatenate(parts))
        temporary.rename(path)
    return np.load(path, mmap_mode="r")


def judged_batch(work: Path, rng: np.random.Generator, size: int) -> tuple[np.ndarray, torch.Tensor]:
    """(pool indices [size], pixel values [size, 3, 64, 64]), half as drawn and half as the VAE gives them back.

    A judge that knows drawings alone is wrong about a quarter of the VAE's pictures, whatever the UNet does.
    """
    drawn = np.sort(rng.choice(POOL, size=size - size // 2, replace=False))
    decoded = np.sort(rng.choice(DECODED, size=size // 2, replace=False))
    pictures = np.concatenate([draw_pool(work, POOL)[drawn], decoded_pool(work)[decoded]])
    return np.concatenate([drawn, decoded]), to_pixel_values(pictures)
