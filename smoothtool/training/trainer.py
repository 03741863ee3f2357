"""The training loop of the smooth LoRA (L = L_base + lambda L_reg), on one process or many.

The UNet is not wrapped: the regulariser runs several backward passes a step, which confuses gradient reducers, and a
LoRA's gradients are small. They are averaged over the processes once a step instead.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch.nn.attention import SDPBackend, sdpa_kernel

from smoothtool.diffusion.economies import WITH_GRADIENTS, WITHOUT_GRADIENTS, Economy, release
from smoothtool.diffusion.lora import add_trainable_lora
from smoothtool.diffusion.memory import failing_in_time
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import MemoryExhaustedError, ModelError, out_of_memory
from smoothtool.methods.smoothness.step_variation import (
    Gradient,
    LossTerm,
    NoisyBatch,
    Regularisation,
    disagreement,
    loss_terms,
    noise_gradient,
)
from smoothtool.training.bands import in_bands
from smoothtool.training.batch import drawn_batch
from smoothtool.training.difference import forbid_tf32, required_difference_step
from smoothtool.training.examples import Examples
from smoothtool.training.order import BatchOrder
from smoothtool.types import Conditioning

CHECKED_EVERY = 32
"""One sample in so many is differentiated a second time, at twice the length: a fifteenth more work in such steps."""
UNRESOLVED = 0.1
"""How far the gradients of two lengths may be apart; beyond it a sample trains without the regulariser."""
CHECKED_AT_LEAST, MOST_UNRESOLVED = 8, 0.25
"""After so many checks, a larger share of unresolved samples ends the training."""
NOT_AT_ALL = 1e6
MOST_WATCHED = 2**24
"""Weights whose gradients are compared: all of a LoRA's, some of a whole UNet's."""
COMPILED_ERROR = 0.03
"""How far a compiled UNet's gradient to the noise may be from the plain one's, relatively."""


@dataclass(frozen=True)
class TrainSettings:
    """The numbers of a training; names as in the job, meaning as in its help."""

    max_steps: int
    batch_size: int = 1
    accumulate: int = 1
    learning_rate: float = 1e-4
    weight_decay: float = 1e-4
    warmup_steps: int = 0
    max_grad_norm: float = 1.0
    prompt_dropout: float = 0.0
    seed: int = 0
    rank: int = 8
    full: bool = False
    ema: float = 0.0
    variation_weight: float = 1.0
    every: int = 1
    gradient: Gradient = "central"
    relative_step: float | None = None
    running_mean_start: Literal["first-batch", "zero"] = "first-batch"
    gradient_checkpointing: bool = False
    compile: bool = False


@dataclass(frozen=True)
class TrainStep:
    """One optimizer step done.

    regulariser, running_mean  None without a regulariser; the first also in steps that leave it out
    checked, unresolved  samples whose finite difference was compared with a longer one, and those where they differed
    samples    pictures of all processes
    at_once    pictures per process that went through the UNet together: the batch, or less where memory ran out
    bands  per timestep band ("0-249", …) the means of `base_loss`, `n` and `regulariser`, and `samples`
    """

    step: int
    base_loss: float
    regulariser: float | None
    running_mean: float | None
    learning_rate: float
    samples: int
    at_once: int
    seconds: float
    checked: int
    unresolved: int
    bands: dict[str, dict[str, float]]


class Trainer:
    """A model with something trainable on it, and all that changes while it is trained: `state()` is complete."""

    def __init__(
        self, model: DiffusionModel, examples: Examples, settings: TrainSettings, accelerator: Accelerator
    ) -> None:
        self.model, self.examples, self.settings, self.accelerator = model, examples, settings, accelerator
        model.economies.bring("unet")  # where averages and Adam's moments will be
        _make_trainable(model, settings)
        self.named = {name: p for name, p in model.unet.named_parameters() if p.requires_grad}
        self.parameters = list(self.named.values())
        adam = torch.optim.AdamW(self.parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        self.adam, self.optimizer = adam, accelerator.prepare(adam)
        self.order = BatchOrder(examples.buckets, settings.batch_size * accelerator.num_processes, settings.seed)
        self.step = 0
        self.at_once: int | None = None  # the whole batch
        self.running_mean = torch.zeros(()) if settings.running_mean_start == "zero" else None
        self.averages = {name: p.detach().clone() for name, p in self.named.items()} if settings.ema else {}
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
        self.checked = self.unresolved = 0  # since this process began
        self._unet: Any = torch.compile(model.unet) if settings.compile else model.unet

    @property
    def regularised(self) -> bool:
        """Whether the next step has the regulariser: every K-th has, with K times its weight.

        Lazy regularisation (Karras et al., StyleGAN2, CVPR 2020, arXiv:1912.04958, appendix B). Their change of Adam's
        rate and betas has no part in it: it makes up for a second update of its own, and here both losses share one.
        """
        return self.settings.variation_weight > 0 and self.step % self.settings.every == 0

    def check_compiled(self) -> float:
        """How far the compiled UNet's gradient to the noise is from the plain one's, relatively, on the next batch.

        Beyond `COMPILED_ERROR` the training goes on without compiling. Compilers do get it wrong: torch 2.13's Inductor
        by 7 % on a CPU, for a tiny UNet whose outputs and weights' gradients it gets right to 1e-6.
        """
        batch, timesteps, conditioning = self._batch(self.step * self.settings.accumulate)
        part = slice(self.at_once or len(timesteps))
        predict = partial(self._predict, timesteps=timesteps[part], conditioning=conditioning[part])
        found = noise_gradient(predict, batch.rows(part), self.parameters)
        compiled, self._unet = self._unet, self.model.unet
        expected = noise_gradient(predict, batch.rows(part), self.parameters)
        error = float((found - expected).norm() / expected.norm())
        if error <= COMPILED_ERROR:
            self._unet = compiled
        return error

    def steps(self) -> Iterator[TrainStep]:
        """Train up to `max_steps`.

        Raises: ModelError when the loss is not a number, MemoryExhaustedError when one picture does not fit, or several
        do not on several processes; the weights are then those of the step before.
        """
        while self.step < self.settings.max_steps:
            yield self._train_step()

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and facts that make another `Trainer` of the same settings go on from here."""
        tensors = {f"weights/{name}": p.detach().cpu().clone() for name, p in self.named.items()}
        for name, p in self.named.items():
            for key, value in self.adam.state[p].items():
                tensors[f"adam.{key}/{name}"] = value.detach().cpu().clone()
        tensors |= {f"average/{name}": value.cpu().clone() for name, value in self.averages.items()}
        if self.running_mean is not None:
            tensors["running_mean/"] = self.running_mean.cpu().clone()
        scaler = self.accelerator.scaler
        return tensors, {"step": self.step, "at_once": self.at_once, "scaler": scaler.state_dict() if scaler else None}

    @torch.no_grad()
    def restore(self, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> None:
        """Put a `state()` back.

        Raises: ModelError when it is of other weights.
        """
        groups: dict[str, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            group, _, name = key.partition("/")
            groups.setdefault(group, {})[name] = value
        shapes = {name: value.shape for name, value in groups.get("weights", {}).items()}
        if shapes != {name: p.shape for name, p in self.named.items()}:
            raise ModelError("the checkpoint is of another model, rank or choice of layers", "an empty output folder")
        for name, p in self.named.items():
            p.copy_(groups["weights"][name])
            moments = {key: part[name] for key, part in groups.items() if key.startswith("adam.") and name in part}
            self.adam.state[p] = {
                key.removeprefix("adam."): value.to(p.device if value.ndim else "cpu") for key, value in moments.items()
            }
        for name, value in self.averages.items():
            value.copy_(groups.get("average", groups["weights"])[name])
        self.running_mean = groups["running_mean"][""] if "running_mean" in groups else self.running_mean
        self.step, self.at_once = int(facts["step"]), facts["at_once"]
        if self.accelerator.scaler and facts.get("scaler"):
            self.accelerator.scaler.load_state_dict(facts["scaler"])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The exponential averages in the place of the weights, if they are kept."""
        kept = {name: p.detach().clone() for name, p in self.named.items()} if self.averages else {}
        self._set_weights(self.averages)
        try:
            yield
        finally:
            self._set_weights(kept)

    def learning_rate(self) -> float:
        """Constant after a linear warm-up."""
        return self.settings.learning_rate * min(1.0, (self.step + 1) / max(1, self.settings.warmup_steps))

    def _train_step(self) -> TrainStep:
        started = time.perf_counter()
        learning_rate = self.learning_rate()
        for group in self.adam.param_groups:
            group["lr"] = learning_rate
        figures, length = self._gradients(), self._reduced_length()
        figures = self.accelerator.gather(figures).cpu()  # the only time in a step that the host waits for a GPU
        self._check_finite(figures, length)
        checked, unresolved = self._check_resolved(figures)
        regularised = self.regularised
        self._apply_gradients()
        self.step += 1
        timesteps, base, norms, regulariser, _ = figures.unbind(dim=1)
        mean = self.running_mean if self.settings.variation_weight else None
        varied = {"n": norms, "regulariser": regulariser} if regularised else {}
        return TrainStep(
            step=self.step,
            base_loss=float(base.mean()),
            regulariser=float(regulariser.mean()) if regularised else None,
            running_mean=None if mean is None else float(mean),
            learning_rate=learning_rate,
            samples=len(base),
            at_once=self.at_once or self.settings.batch_size,
            seconds=time.perf_counter() - started,
            checked=checked,
            unresolved=unresolved,
            bands=in_bands(timesteps, len(self.model.schedule.alphas_cumprod), {"base_loss": base, **varied}),
        )

    def _gradients(self) -> torch.Tensor:
        """Add up the gradients of one step; [samples, 5]: timestep, base loss, n, (n - a)^2, and how far the difference
        is from a longer one (-1 where nobody looked).

        A step whose memory runs out begins again with half as many pictures at once, then with what else saves memory.
        """
        accumulate, before = self.settings.accumulate, self.running_mean
        numbers = range(self.step * accumulate, (self.step + 1) * accumulate)
        while True:
            alone = (self.at_once or self.settings.batch_size) == 1
            last = alone and self.model.economies.left(self._savings) is None
            try:
                with nullcontext() if last else failing_in_time(self.model.device):
                    return torch.cat([self._accumulate(number) for number in numbers])
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                fewer = self._fewer(error)
            self.running_mean = before
            self.optimizer.zero_grad(set_to_none=True)
            if fewer == self.at_once:
                self.model.economies.use_next(self._savings)
            self.at_once = fewer
            release(self.model.device)

    @property
    def _savings(self) -> Sequence[Economy]:
        """Double backward takes another attention than what would be computed again."""
        exact = self.regularised and self.settings.gradient == "double-backward"
        return WITHOUT_GRADIENTS if exact else WITH_GRADIENTS

    def _fewer(self, error: Exception) -> int:
        """Half as many pictures at once: noises and the effective batch stay, and so does this number when resumed.

        One stays one while something else saves memory. Not on several processes, where the others already wait for
        this one's figures.
        """
        now = self.at_once or self.settings.batch_size
        if now == 1 and self.accelerator.num_processes == 1 and self.model.economies.left(self._savings):
            return 1
        what = f"step {self.step + 1}: out of memory with {now} picture{'s' * (now > 1)} at once"
        if now == 1:
            raise MemoryExhaustedError(what, "a smaller --size") from error
        if self.accelerator.num_processes > 1:
            less = next(size for size in range(now // 2, 0, -1) if now % size == 0)
            flags = f"--batch-size {less} --accumulate {self.settings.accumulate * now // less}"
            raise MemoryExhaustedError(what, f"--gradient-checkpointing, or {flags}: as many a step") from error
        return now // 2

    def _accumulate(self, number: int) -> torch.Tensor:
        """Gradients of batch `number`, added up; its rows of `_gradients`."""
        batch, timesteps, conditioning = self._batch(number)
        found = self._disagreements(number, batch, timesteps, conditioning)
        batch = replace(batch, resolved=(found <= UNRESOLVED).to(batch.noise))
        size = self.at_once or len(timesteps)
        parts = [slice(at, at + size) for at in range(0, len(timesteps), size)]
        rows = [self._backward(batch.rows(part), timesteps[part], conditioning[part]) for part in parts]
        return torch.cat([torch.cat(rows), found[:, None]], dim=1)

    def _disagreements(
        self, number: int, batch: NoisyBatch, timesteps: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """[B] how far the difference of one sample in `CHECKED_EVERY` is from one twice as long; -1 elsewhere."""
        found = torch.full((len(timesteps),), -1.0, device=self.model.device)
        if not self.regularised or self.settings.gradient == "double-backward":
            return found
        step, within = divmod(number, self.settings.accumulate)
        before = (step // self.settings.every * self.settings.accumulate + within) * len(timesteps)
        for row in range(-before % CHECKED_EVERY, len(timesteps), CHECKED_EVERY):
            part = slice(row, row + 1)
            given = {"timesteps": timesteps[part], "conditioning": conditioning[part], "unet": self.model.unet}
            predict = partial(self._predict, **given)  # not the compiled UNet: it would be compiled for a batch of one
            value = disagreement(predict, batch.rows(part), self.regularisation, self.watched)
            found[row] = value.float().nan_to_num(nan=torch.inf).clamp(max=NOT_AT_ALL)
        return found

    def _backward(self, batch: NoisyBatch, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        """Gradients of pictures that go through the UNet together; their loss counts by their share of the step."""
        share = len(timesteps) / (self.settings.batch_size * self.settings.accumulate)
        predict = partial(self._predict, timesteps=timesteps, conditioning=conditioning)
        base = torch.zeros(len(timesteps), device=self.model.device)
        settings = self.regularisation if self.regularised else replace(self.regularisation, weight=0.0)
        terms = loss_terms(predict, batch, self._mean_on_device(), settings, self.parameters)
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
        self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning, unet: Any = None
    ) -> torch.Tensor:
        exact = self.settings.gradient == "double-backward" and self.regularised
        attention = sdpa_kernel(SDPBackend.MATH) if exact else nullcontext()
        with attention, self.accelerator.autocast():
            return self.model.predict_noise_at(latents, timesteps, conditioning, unet or self._unet)

    def _reduced_length(self) -> torch.Tensor:
        """Average the gradients over the processes, and cut them; their length before."""
        if self.accelerator.num_processes > 1:
            for p in self.parameters:
                p.grad = self.accelerator.reduce(p.grad, reduction="mean")
        return torch.as_tensor(self.accelerator.clip_grad_norm_(self.parameters, self.settings.max_grad_norm))

    def _apply_gradients(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        for name, average in self.averages.items():
            average.lerp_(self.named[name].detach(), 1 - min(self.settings.ema, (1 + self.step) / (10 + self.step)))

    def _check_finite(self, figures: torch.Tensor, length: torch.Tensor) -> None:
        """float16's gradients may overflow now and then: its loss scaling then skips the step."""
        bad = ~figures.isfinite().all(dim=1)
        if bool(bad.any()):
            self._refuse("the loss", figures[bad, 0])
        if self.accelerator.scaler is None and not bool(length.isfinite()):
            self._refuse("the gradient", figures[:, 0])

    def _check_resolved(self, figures: torch.Tensor) -> tuple[int, int]:
        """How many samples' differences were checked in this step, and how many of them were not resolved.

        Raises: ModelError when that is the rule rather than the exception.
        """
        disagreements = figures[:, 4]
        checked, unresolved = int((disagreements >= 0).sum()), int((disagreements > UNRESOLVED).sum())
        self.checked, self.unresolved = self.checked + checked, self.unresolved + unresolved
        if self.checked >= CHECKED_AT_LEAST and self.unresolved > MOST_UNRESOLVED * self.checked:
            self.optimizer.zero_grad(set_to_none=True)
            share, length = f"{self.unresolved} of {self.checked} samples", self.regularisation.relative_step
            raise ModelError(
                f"step {self.step + 1}: the regulariser's difference of relative step {length:g} is wrong for {share}",
                "--dtype float32 without --mixed-precision, another --relative-step, or --gradient double-backward",
            )
        return checked, unresolved

    def _refuse(self, what: str, timesteps: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        times = ", ".join(str(int(t)) for t in timesteps[:8])
        raise ModelError(
            f"step {self.step + 1}: {what} is not a number, at timesteps {times}",
            "a lower --learning-rate with --resume --force, from the last checkpoint",
        )

    def _mean_on_device(self) -> torch.Tensor | None:
        return None if self.running_mean is None else self.running_mean.to(self.model.device)

    @torch.no_grad()
    def _set_weights(self, values: dict[str, torch.Tensor]) -> None:
        for name, value in values.items():
            self.named[name].copy_(value)


def _make_trainable(model: DiffusionModel, settings: TrainSettings) -> None:
    if settings.full:
        model.unet.requires_grad_(True)
    else:
        add_trainable_lora(model.unet, settings.rank, generator=torch.Generator().manual_seed(settings.seed))
    if settings.gradient_checkpointing:
        model.economies.use("gradient_checkpointing")
