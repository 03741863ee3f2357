"""A large pool of scenes, drawn once: pictures on disk, scenes again from their seed."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import torch

from smoothtool.files.storage.writing import atomic_path
from smoothtool.stickers.world.scenes import SIZE_PX, Scene, caption, render, sample_scene

HELD_OUT_SEED = 1_000_000_000


def pool_scene(index: int, *, held_out: bool = False) -> Scene:
    """Scene number `index` of the training pool, or of the held-out pool."""
    return sample_scene(Random(index + (HELD_OUT_SEED if held_out else 0)), held_out=held_out)


def pool_caption(index: int, variant: int) -> str:
    """One of many captions of a pool scene."""
    return caption(pool_scene(index), Random(index * 1_000_003 + variant))


def draw_pool(work: Path, count: int) -> np.ndarray:
    """uint8 pictures [count, 64, 64, 3], drawn on first use and memory-mapped after."""
    path = work / f"pool-{count}.npy"
    if not path.exists():
        pictures = np.empty((count, SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
        for index in range(count):
            pictures[index] = np.asarray(render(pool_scene(index), work / "icons"))
        with atomic_path(path) as temporary:
            np.save(temporary, pictures)
    return np.load(path, mmap_mode="r")


def to_pixel_values(pictures: np.ndarray) -> torch.Tensor:
    """uint8 [B, H, W, 3] -> float [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def held_out_pixel_values(work: Path, count: int) -> torch.Tensor:
    scenes = [pool_scene(index, held_out=True) for index in range(count)]
    return to_pixel_values(np.stack([np.asarray(render(scene, work / "icons")) for scene in scenes]))
