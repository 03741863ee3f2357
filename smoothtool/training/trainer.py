"""The training loop of the smooth LoRA, on one process or many.

The UNet is not wrapped: the regulariser runs several backward passes a step, which confuses gradient reducers, and a
LoRA's gradients are small. They are averaged over the processes once a step instead.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator

from smoothtool.diffusion.lora import add_trainable_lora
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import ModelError
from smoothtool.training.bands import in_bands
from smoothtool.training.checks import StepChecks, check_finite
from smoothtool.training.examples import Examples
from smoothtool.training.gradients import StepGradients
from smoothtool.training.settings import TrainSettings


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
        self.model, self.settings, self.accelerator = model, settings, accelerator
        model.economies.bring("unet")  # where averages and Adam's moments will be
        _make_trainable(model, settings)
        self.named = {name: p for name, p in model.unet.named_parameters() if p.requires_grad}
        self.parameters = list(self.named.values())
        adam = torch.optim.AdamW(self.parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
        self.adam, self.optimizer = adam, accelerator.prepare(adam)
        self.step = 0
        self.averages = {name: p.detach().clone() for name, p in self.named.items()} if settings.ema else {}
        self.gradients = StepGradients(model, examples, settings, accelerator, self.parameters)
        self.checks = StepChecks(self.relative_step)

    @property
    def relative_step(self) -> float:
        """The length of the regulariser's finite difference, relative to the latents; 0 for the double backward."""
        return self.gradients.regularisation.relative_step

    @property
    def at_once(self) -> int:
        """Pictures per process that go through the UNet together."""
        return self.gradients.at_once or self.settings.batch_size

    def check_compiled(self) -> float:
        """`StepGradients.check_compiled` on the next batch."""
        return self.gradients.check_compiled(self.step)

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
        if self.gradients.running_mean is not None:
            tensors["running_mean/"] = self.gradients.running_mean.cpu().clone()
        scaler = self.accelerator.scaler
        facts = {"step": self.step, "at_once": self.gradients.at_once}
        return tensors, {**facts, "scaler": scaler.state_dict() if scaler else None}

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
        if "running_mean" in groups:
            self.gradients.running_mean = groups["running_mean"][""]
        self.step, self.gradients.at_once = int(facts["step"]), facts["at_once"]
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
        figures, length = self.gradients.add_up(self.step), self._reduced_length()
        figures = self.accelerator.gather(figures).cpu()  # the only time in a step that the host waits for a GPU
        try:
            check_finite(self.step + 1, figures, length, scaled=self.accelerator.scaler is not None)
            checked, unresolved = self.checks.resolved(self.step + 1, figures)
        except ModelError:
            self.optimizer.zero_grad(set_to_none=True)
            raise
        regularised = self.settings.regularises(self.step)
        self._apply_gradients()
        self.step += 1
        timesteps, base, norms, regulariser, _ = figures.unbind(dim=1)
        mean = self.gradients.running_mean if self.settings.variation_weight else None
        varied = {"n": norms, "regulariser": regulariser} if regularised else {}
        return TrainStep(
            step=self.step,
            base_loss=float(base.mean()),
            regulariser=float(regulariser.mean()) if regularised else None,
            running_mean=None if mean is None else float(mean),
            learning_rate=learning_rate,
            samples=len(base),
            at_once=self.at_once,
            seconds=time.perf_counter() - started,
            checked=checked,
            unresolved=unresolved,
            bands=in_bands(timesteps, len(self.model.schedule.alphas_cumprod), {"base_loss": base, **varied}),
        )

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

    @torch.no_grad()
    def _set_weights(self, values: dict[str, torch.Tensor]) -> None:
        for name, value in values.items():
            self.named[name].copy_(value)


def _make_trainable(model: DiffusionModel, settings: TrainSettings) -> None:
    if settings.full:
        model.unet.requires_grad_(True)
    else:
        generator = torch.Generator().manual_seed(settings.seed)
        add_trainable_lora(model.unet, settings.rank, generator=generator, init=settings.init)
    if settings.gradient_checkpointing:
        model.economies.use("gradient_checkpointing")
