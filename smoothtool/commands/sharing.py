"""One loaded model for the jobs of a batch, which come to it one after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smoothtool.diffusion.model import DiffusionModel
    from smoothtool.jobs import ModelJob


class Shared:
    """The model that jobs take over from each other: one at a time, since memory holds one."""

    active: Shared | None = None

    def __init__(self) -> None:
        self.key: tuple[object, ...] = ()
        self.model: DiffusionModel | None = None

    def __enter__(self) -> Shared:
        Shared.active = self
        return self

    def __exit__(self, *problem: object) -> None:
        Shared.active = None

    def forget(self) -> None:
        """The next job loads anew: this one may have left the model changed."""
        self.key, self.model = (), None

    def open(self, job: ModelJob, load: Callable[[], DiffusionModel]) -> DiffusionModel:
        """The model at hand when the job asks for the same, counting its calls from zero."""
        key = (job.model, job.device, job.dtype, *job.lora)
        if self.model is None or key != self.key:
            self.forget()
            self.model, self.key = load(), key
        self.model.counter.calls = self.model.counter.rows = 0
        return self.model
