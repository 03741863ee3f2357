"""The model pool that commands are handed: one loaded model for many jobs, and results computed for several at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from smoothtool.diffusion.model import DiffusionModel
    from smoothtool.jobs import Job, ModelJob

T = TypeVar("T")
NO_LIMIT = 1 << 20


@dataclass(frozen=True)
class Precomputed:
    """A result of one job that was computed in a batch with others', and the UNet calls in which the job had rows."""

    value: Any
    unet_calls: int


def model_key(job: Job) -> tuple[object, ...]:
    """The options that a job's model depends on; empty values for a job without a model."""
    keys = ("model", "device", "dtype", "offload", "vae_tiling", "gradient_checkpointing")
    return tuple(getattr(job, key, None) for key in keys) + tuple(getattr(job, "lora", ()))


class ModelPool:
    """The model that jobs pass on to each other: one at a time, since memory holds one.

    precomputed   results that wait for the job that asks for them
    precompute_s  seconds that each job's share of them took
    batch_limit   how many pictures fit into memory together, as far as is known
    faults        why a model does not load, by `model_key`: it is not tried again for every job
    """

    def __init__(self) -> None:
        self.key: tuple[object, ...] = ()
        self.model: DiffusionModel | None = None
        self.precomputed: dict[tuple[object, ...], Precomputed] = {}
        self.precompute_s, self.batch_limit = 0.0, NO_LIMIT
        self.faults: dict[tuple[object, ...], Exception] = {}

    def open(self, job: ModelJob, load: Callable[[], DiffusionModel]) -> DiffusionModel:
        """The loaded model where the job asks for the same one, with its call counter at zero; else what `load` gives.

        Raises: what `load` raises, and the same again without another try.
        """
        key = model_key(job)
        if key in self.faults:
            raise self.faults[key]
        if self.model is None or key != self.key:
            self.drop()
            try:
                self.model, self.key, self.batch_limit = load(), key, NO_LIMIT
            except Exception as error:
                self.faults[key] = error
                raise
        self.model.counter.calls = self.model.counter.rows = 0
        return self.model

    def drop(self) -> None:
        """Forget the model, which may have been changed: the next job loads its own."""
        self.key, self.model = (), None

    def fault(self, job: Job) -> Exception | None:
        """Why the job's model does not load, where that has been tried."""
        return self.faults.get(model_key(job))

    def take(self, key: tuple[object, ...], model: DiffusionModel, compute: Callable[[], T]) -> T:
        """The result that was precomputed under that key, its calls counted; where there is none, it is computed."""
        found = self.precomputed.get(key)
        if found is None:
            return compute()
        model.counter.calls += found.unet_calls
        return found.value

    def clear_precomputed(self) -> None:
        """Once the jobs that they were made for are done."""
        self.precomputed.clear()
        self.precompute_s = 0.0
