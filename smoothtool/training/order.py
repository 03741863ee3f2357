"""All randomness of training, as a function of (seed, step): nothing to save, and a resumed run draws the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import torch


class BatchOrder:
    """Endless batches of example indices: every epoch is shuffled anew, a batch holds one bucket's pictures only.

    A bucket that does not divide evenly is filled up with its own first pictures of that epoch.
    """

    def __init__(self, buckets: Sequence[Sequence[int]], batch_size: int, seed: int) -> None:
        self.buckets, self.batch_size, self.seed = buckets, batch_size, seed
        self.per_epoch = sum(-(-len(bucket) // batch_size) for bucket in buckets)
        self._epoch: tuple[int, list[list[int]]] = (-1, [])

    def __getitem__(self, number: int) -> list[int]:
        """Batch `number`, counted from the start of training."""
        epoch, at = divmod(number, self.per_epoch)
        if self._epoch[0] != epoch:
            self._epoch = (epoch, self._shuffled(epoch))
        return self._epoch[1][at]

    def _shuffled(self, epoch: int) -> list[list[int]]:
        random = Random(f"{self.seed}/{epoch}")
        batches = []
        for bucket in self.buckets:
            rows = random.sample(bucket, len(bucket))
            while len(rows) % self.batch_size:
                rows += rows[: self.batch_size - len(rows) % self.batch_size]
            batches += [rows[at : at + self.batch_size] for at in range(0, len(rows), self.batch_size)]
        random.shuffle(batches)
        return batches


@dataclass(frozen=True)
class Draws:
    """The random numbers of one batch of B.

    timesteps         [B] whole numbers, uniform
    noise, probe      [B, C, h, w] standard normal; `probe` is the direction of the regulariser
    posterior_noise   [B, C, h, w] standard normal, samples the VAE's posterior
    dropped, caption  [B] uniform in [0, 1): drops the prompt, and chooses among captions
    """

    timesteps: torch.Tensor
    noise: torch.Tensor
    probe: torch.Tensor
    posterior_noise: torch.Tensor
    dropped: torch.Tensor
    caption: torch.Tensor

    def rows(self, part: slice) -> Draws:
        """One process's share of the batch."""
        return Draws(*(getattr(self, name)[part] for name in self.__dataclass_fields__))


def draw(seed: int, number: int, shape: Sequence[int], num_train_timesteps: int) -> Draws:
    """The draws of batch `number`, of shape [B, C, h, w]; on the CPU, so that every device trains on the same."""
    digest = hashlib.sha256(f"{seed}/{number}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    timesteps = torch.randint(num_train_timesteps, (shape[0],), generator=generator, device="cpu")
    noise, probe, posterior_noise = (torch.randn(tuple(shape), generator=generator, device="cpu") for _ in range(3))
    dropped, caption = (torch.rand(shape[0], generator=generator, device="cpu") for _ in range(2))
    return Draws(timesteps, noise, probe, posterior_noise, dropped, caption)
