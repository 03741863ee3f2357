"""What the VAE makes of the scene pool: its latents, which the UNet learns, and its pictures, which the judges see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from smoothtool.files.storage.writing import atomic_path
from smoothtool.stickers.making.tokenizer import MAX_TOKENS, load_tokenizer, tokenize
from smoothtool.stickers.making.vae import POOL, SCALING_FACTOR, normalised_vae
from smoothtool.stickers.world.pool import draw_pool, pool_caption, pool_scene, to_pixel_values
from smoothtool.stickers.world.scenes import render

SHARD_SCENES = 6_000
SHARDS = 25  # 150,000 scenes: each is seen some twenty times, so that none is learned by heart
DECODED = SHARD_SCENES
VARIANTS = 8  # captions of a scene


def trained_vae(work: Path) -> AutoencoderKL:
    """The normalised VAE, with the sharpened decoder where there is one."""
    vae = normalised_vae(work)
    if (work / "decoder.pt").exists():
        vae.load_state_dict(torch.load(work / "decoder.pt", weights_only=True)["averaged"])
    vae.register_to_config(scaling_factor=SCALING_FACTOR)
    return vae.eval()


@torch.no_grad()
def encode_shard(work: Path, shard: int, device: str = "cpu") -> Path:
    """Draw scenes SHARD * SHARD_SCENES onwards and keep their scaled latents: float16 [SHARD_SCENES, 4, 16, 16]."""
    path = work / "latents" / f"{shard:03d}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        vae, parts = normalised_vae(work).to(device, memory_format=torch.channels_last), []
        for at in range(shard * SHARD_SCENES, (shard + 1) * SHARD_SCENES, 50):
            pictures = np.stack([np.asarray(render(pool_scene(i), work / "icons")) for i in range(at, at + 50)])
            latents = vae.encode(to_pixel_values(pictures).to(device)).latent_dist.mean * SCALING_FACTOR
            parts.append(latents.contiguous().half().cpu().numpy())
        with atomic_path(path) as temporary:
            np.save(temporary, np.concatenate(parts))
    return path


def tokenize_shard(work: Path, shard: int) -> Path:
    """The token ids of VARIANTS captions of every scene of a shard: uint16 [SHARD_SCENES, VARIANTS, MAX_TOKENS]."""
    path = work / "tokens" / f"{shard:03d}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        tokenizer, scenes = load_tokenizer(work), range(shard * SHARD_SCENES, (shard + 1) * SHARD_SCENES)
        texts = [pool_caption(scene, variant) for scene in scenes for variant in range(VARIANTS)]
        ids = tokenize(tokenizer, texts).numpy().astype(np.uint16)
        with atomic_path(path) as temporary:
            np.save(temporary, ids.reshape(SHARD_SCENES, VARIANTS, MAX_TOKENS))
    return path


class LatentPool:
    """The latents and captions of all shards that are there: memory-mapped, or whole on a GPU. More may come later.

    draw() gives scenes evenly, each with one of its captions, or with "" in a share `dropout` of the cases.
    """

    def __init__(self, work: Path, device: torch.device) -> None:
        numbers = sorted(int(path.stem) for path in (work / "latents").glob("[0-9][0-9][0-9].npy"))
        if not numbers:
            raise SystemExit(f"{work / 'latents'} has no latents yet: run the stage `latents` first")
        self.latents = [self._open(encode_shard(work, number), device) for number in numbers]
        self.tokens = [self._open(tokenize_shard(work, number), device) for number in numbers]
        if device.type != "cpu":
            self.latents, self.tokens = [torch.cat(self.latents)], [torch.cat(self.tokens)]
        self.null = tokenize(load_tokenizer(work), [""])[0].to(device)
        self.device = device

    @staticmethod
    def _open(path: Path, device: torch.device) -> torch.Tensor:
        array = np.load(path, mmap_mode="c")  # copy on write, so that torch takes it as writable; nothing is written
        return torch.from_numpy(array if array.dtype == np.float16 else array.astype(np.int16)).to(device)

    def draw(self, size: int, dropout: float, generator: torch.Generator | None) -> tuple[torch.Tensor, torch.Tensor]:
        """(latents float32 [size, 4, 16, 16], token ids [size, MAX_TOKENS])."""
        rows = len(self.latents[0])
        chosen = torch.randint(rows * len(self.latents), (size,), generator=generator, device=self.device)
        variants = torch.randint(VARIANTS, (size,), generator=generator, device=self.device)
        dropped = torch.rand(size, generator=generator, device=self.device) < dropout
        if len(self.latents) == 1:
            latents, tokens = self.latents[0][chosen], self.tokens[0][chosen, variants]
        else:
            places = list(zip((chosen // rows).tolist(), (chosen % rows).tolist(), variants.tolist(), strict=True))
            latents = torch.stack([self.latents[shard][row] for shard, row, _ in places])
            tokens = torch.stack([self.tokens[shard][row, variant] for shard, row, variant in places])
        return latents.float(), torch.where(dropped[:, None], self.null, tokens.long())


@torch.no_grad()
def decoded_pool(work: Path) -> np.ndarray:
    """uint8 [DECODED, 64, 64, 3]: the pool's first pictures as the VAE gives them back; anew for a newer decoder."""
    path, decoder = work / f"decoded-{DECODED}.npy", work / "decoder.pt"
    if not path.exists() or (decoder.exists() and decoder.stat().st_mtime > path.stat().st_mtime):
        vae, parts = trained_vae(work), []
        first = torch.from_numpy(np.load(encode_shard(work, 0))).float()
        for latents in first[:DECODED].split(64):
            pictures = vae.decode(latents / SCALING_FACTOR).sample.clamp(-1, 1)
            parts.append(((pictures + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
        with atomic_path(path) as temporary:
            np.save(temporary, np.concatenate(parts))
    return np.load(path, mmap_mode="r")


def judged_batch(work: Path, rng: np.random.Generator, size: int) -> tuple[np.ndarray, torch.Tensor]:
    """(pool indices [size], pixel values [size, 3, 64, 64]), half as drawn and half as the VAE gives them back.

    A judge that knows drawings alone is wrong about a quarter of the VAE's pictures, whatever the UNet does.
    """
    drawn = np.sort(rng.choice(POOL, size=size - size // 2, replace=False))
    decoded = np.sort(rng.choice(DECODED, size=size // 2, replace=False))
    pictures = np.concatenate([draw_pool(work, POOL)[drawn], decoded_pool(work)[decoded]])
    return np.concatenate([drawn, decoded]), to_pixel_values(pictures)
