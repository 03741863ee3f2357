"""What the jobs of a batch share: one loaded model, and what was worked out for several of them at once."""

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
class Ahead:
    """A job's result that was worked out together with others', and the UNet calls in which the job had its rows."""

    value: Any
    unet_calls: int


def model_key(job: Job) -> tuple[object, ...]:
    """What a job's model is told by; of a job without one, nothing."""
    return tuple(getattr(job, key, None) for key in ("model", "device", "dtype")) + tuple(getattr(job, "lora", ()))


class Shared:
    """The model that jobs take over from each other: one at a time, since memory holds one.

    ahead    results that wait for the job that asks for them
    fits     as many pictures of a batch have fitted into memory, or might
    share_s  what each of them took, in seconds, before its own work
    broken   why a model does not load, by `model_key`: it is not tried again for every item
    """

    active: Shared | None = None

    def __init__(self) -> None:
        self.key: tuple[object, ...] = ()
        self.model: DiffusionModel | None = None
        self.ahead: dict[tuple[object, ...], Ahead] = {}
        self.fits, self.share_s = NO_LIMIT, 0.0
        self.broken: dict[tuple[object, ...], Exception] = {}

    def __enter__(self) -> Shared:
        Shared.active = self
        return self

    def __exit__(self, *problem: object) -> None:
        Shared.active = None

    def clear_ahead(self) -> None:
        """The items that went together are done."""
        self.ahead.clear()
        self.share_s = 0.0

    def forget(self) -> None:
        """The next job loads anew: this one may have left the model changed."""
        self.key, self.model = (), None

    def fault(self, job: Job) -> Exception | None:
        """Why the job's model does not load, when that has been tried."""
        return self.broken.get(model_key(job))

    def open(self, job: ModelJob, load: Callable[[], DiffusionModel]) -> DiffusionModel:
        """The model at hand when the job asks for the same, counting its calls from zero.

        Raises: what `load` raises, the same again without trying.
        """
        key = model_key(job)
        if key in self.broken:
            raise self.broken[key]
        if self.model is None or key != self.key:
            self.forget()
            try:
                self.model, self.key, self.fits = load(), key, NO_LIMIT
            except Exception as error:
                self.broken[key] = error
                raise
        self.model.counter.calls = self.model.counter.rows = 0
        return self.model


def worked_out(key: tuple[object, ...], model: DiffusionModel, compute: Callable[[], T]) -> T:
    """What was worked out ahead under that key, its calls counted; where nothing was, it is computed now."""
    ahead = Shared.active.ahead.get(key) if Shared.active is not None else None
    if ahead is None:
        return compute()
    model.counter.calls += ahead.unet_calls
    return ahead.value
