"""The gradients of a training step, L = L_base + lambda L_reg, in as many pictures at once as memory allows."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch.nn.attention import SDPBackend, sdpa_kernel

from smoothtool.diffusion.economies import WITH_GRADIENTS, WITHOUT_GRADIENTS, Economy, release
from smoothtool.diffusion.memory import failing_in_time
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import MemoryExhaustedError, out_of_memory
from smoothtool.methods.smoothness.step_variation import (
    LossTerm,
    NoisyBatch,
    Regularisation,
    disagreement,
    loss_terms,
    noise_gradient,
)
from smoothtool.training.batch import drawn_batch
from smoothtool.training.difference import forbid_tf32, required_difference_step
from smoothtool.training.examples import Examples
from smoothtool.training.order import BatchOrder
from smoothtool.training.settings import TrainSettings
from smoothtool.types import Conditioning

CHECKED_EVERY = 32
"""One sample in so many is differentiated a second time, at twice the length: a fifteenth more work in such steps."""
UNRESOLVED = 0.1
"""How far the gradients of two lengths may be apart; beyond it a sample trains without the regulariser."""
NOT_AT_ALL = 1e6
MOST_WATCHED = 2**24
"""Weights whose gradients are compared: all of a LoRA's, some of a whole UNet's."""
COMPILED_ERROR = 0.03
"""How far a compiled UNet's gradient to the noise may be from the plain one's, relatively."""


class StepGradients:
    """Draws the batches of a step and adds up the gradients of their losses.

    order         which examples make which batch
    running_mean  a of the regulariser, None before its first batch; at_once, None for the whole batch: they change
    """

    def __init__(
        self,
        model: DiffusionModel,
        examples: Examples,
        settings: TrainSettings,
        accelerator: Accelerator,
        parameters: Sequence[torch.nn.Parameter],
    ) -> None:
        self.model, self.examples, self.settings, self.accelerator = model, examples, settings, accelerator
        self.parameters = list(parameters)
        self.order = BatchOrder(examples.buckets, settings.batch_size * accelerator.num_processes, settings.seed)
        self.at_once: int | None = None
        self.running_mean = torch.zeros((), device=model.device) if settings.running_mean_start == "zero" else None
        mixed = accelerator.mixed_precision != "no"
        if settings.variation_weight and not mixed:
            forbid_tf32(settings.gradient, model)
        self.regularisation = Regularisation(
            settings.gradient,
            settings.variation_weight * settings.every,
            settings.relative_step or required_difference_step(settings.gradient, model, mixed=mixed),
            partial(accelerator.reduce, reduction="mean"),
        )
        weights = sum(parameter.numel() for parameter in self.parameters)
        self.watched = self.parameters[:: -(-weights // MOST_WATCHED)]
        self._unet: Any = torch.compile(model.unet) if settings.compile else model.unet

    def check_compiled(self, step: int) -> float:
        """How far the compiled UNet's gradient to the noise is from the plain one's, relatively, on a step's batch.

        Beyond `COMPILED_ERROR` the training goes on without compiling. Compilers do get it wrong: torch 2.13's Inductor
        by 7 % on a CPU, for a tiny UNet whose outputs and weights' gradients it gets right to 1e-6.
        """
        batch, timesteps, conditioning = self._batch(step * self.settings.accumulate)
        part = slice(self.at_once or len(timesteps))
        predict = partial(self._predict, timesteps=timesteps[part], conditioning=conditioning[part], step=step)
        found = noise_gradient(predict, batch.rows(part), self.parameters)
        compiled, self._unet = self._unet, self.model.unet
        expected = noise_gradient(predict, batch.rows(part), self.parameters)
        error = float((found - expected).norm() / expected.norm())
        if error <= COMPILED_ERROR:
            self._unet = compiled
        return error

    def add_up(self, step: int) -> torch.Tensor:
        """The gradients of step `step`, counted from 0, in the parameters' `grad`.

        [samples, 5]: timestep, base loss, n, (n - a)^2, and how far the difference is from a longer one (-1 where
        nobody looked). A step whose memory runs out begins again with half as many pictures at once, then with what
        else saves memory.

        Raises: MemoryExhaustedError when one picture does not fit, or several do not on several processes.
        """
        accumulate, before = self.settings.accumulate, self.running_mean
        numbers = range(step * accumulate, (step + 1) * accumulate)
        while True:
            alone = (self.at_once or self.settings.batch_size) == 1
            last = alone and self.model.economies.left(self._savings(step)) is None
            try:
                with nullcontext() if last else failing_in_time(self.model.device):
                    return torch.cat([self._accumulate(number, step) for number in numbers])
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                fewer = self._fewer(error, step)
            self.running_mean = before
            for parameter in self.parameters:
                parameter.grad = None
            if fewer == self.at_once:
                self.model.economies.use_next(self._savings(step))
            self.at_once = fewer
            release(self.model.device)

    def _savings(self, step: int) -> Sequence[Economy]:
        """Double backward takes another attention than what would be computed again."""
        return WITHOUT_GRADIENTS if self.settings.differentiates_twice(step) else WITH_GRADIENTS

    def _fewer(self, error: Exception, step: int) -> int:
        """Half as many pictures at once: noises and the effective batch stay, and so does this number when resumed.

        One stays one while something else saves memory. Not on several processes, where the others already wait for
        this one's figures.
        """
        now = self.at_once or self.settings.batch_size
        if now == 1 and self.accelerator.num_processes == 1 and self.model.economies.left(self._savings(step)):
            return 1
        what = f"step {step + 1}: out of memory with {now} picture{'s' * (now > 1)} at once"
        if now == 1:
            raise MemoryExhaustedError(what, "a smaller --size") from error
        if self.accelerator.num_processes > 1:
            less = next(size for size in range(now // 2, 0, -1) if now % size == 0)
            flags = f"--batch-size {less} --accumulate {self.settings.accumulate * now // less}"
            raise MemoryExhaustedError(what, f"--gradient-checkpointing, or {flags}: as many a step") from error
        return now // 2

    def _accumulate(self, number: int, step: int) -> torch.Tensor:
        """Gradients of batch `number`, added up; its rows of `add_up`."""
        batch, timesteps, conditioning = self._batch(number)
        found = self._disagreements(number, step, batch, timesteps, conditioning)
        batch = replace(batch, resolved=(found <= UNRESOLVED).to(batch.noise))
        size = self.at_once or len(timesteps)
        parts = [slice(at, at + size) for at in range(0, len(timesteps), size)]
        rows = [self._backward(step, batch.rows(part), timesteps[part], conditioning[part]) for part in parts]
        return torch.cat([torch.cat(rows), found[:, None]], dim=1)

    def _disagreements(
        self, number: int, step: int, batch: NoisyBatch, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """[B] how far the difference of one sample in `CHECKED_EVERY` is from one twice as long; -1 elsewhere."""
        found = torch.full((len(timesteps),), -1.0, device=self.model.device)
        if not self.settings.regularises(step) or self.settings.gradient == "double-backward":
            return found
        within = number % self.settings.accumulate
        before = (step // self.settings.every * self.settings.accumulate + within) * len(timesteps)
        for row in range(-before % CHECKED_EVERY, len(timesteps), CHECKED_EVERY):
            part = slice(row, row + 1)
            plain = partial(self._predict, unet=self.model.unet)  # a compiled one would be compiled for a batch of one
            predict = partial(plain, timesteps=timesteps[part], conditioning=conditioning[part], step=step)
            value = disagreement(predict, batch.rows(part), self.regularisation, self.watched)
            found[row] = value.float().nan_to_num(nan=torch.inf).clamp(max=NOT_AT_ALL)
        return found

    def _backward(
        self, step: int, batch: NoisyBatch, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """Gradients of pictures that go through the UNet together; their loss counts by their share of the step."""
        share = len(timesteps) / (self.settings.batch_size * self.settings.accumulate)
        predict = partial(self._predict, timesteps=timesteps, conditioning=conditioning, step=step)
        base = torch.zeros(len(timesteps), device=self.model.device)
        regularised = self.settings.regularises(step)
        settings = self.regularisation if regularised else replace(self.regularisation, weight=0.0)
        mean = None if self.running_mean is None else self.running_mean.to(self.model.device)
        terms = loss_terms(predict, batch, mean, settings, self.parameters)
        term: LossTerm | None = None
        for term in terms:
            self.accelerator.backward(term.loss * share)
            base += term.base_loss
        assert term is not None, "every gradient has a term"
        norms = regulariser = torch.zeros_like(base)
        if term.variation is not None:
            norms, self.running_mean = term.variation.norms, term.variation.running_mean
            regulariser = (norms - self.running_mean).square()
        return torch.stack([timesteps.float(), base, norms, regulariser], dim=1)

    def _batch(self, number: int) -> tuple[NoisyBatch, torch.Tensor, Conditioning]:
        """This process's rows of the batch that all processes share."""
        indices, size = self.order[number], self.settings.batch_size
        part = slice(self.accelerator.process_index * size, (self.accelerator.process_index + 1) * size)
        settings = self.settings
        return drawn_batch(
            self.model, self.examples, indices, part, number, seed=settings.seed, prompt_dropout=settings.prompt_dropout
        )

    def _predict(
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning, step: int, unet: Any = None
    ) -> torch.Tensor:
        attention = sdpa_kernel(SDPBackend.MATH) if self.settings.differentiates_twice(step) else nullcontext()
        with attention, self.accelerator.autocast():
            return self.model.predict_noise_at(latents, timesteps, conditioning, unet or self._unet)
