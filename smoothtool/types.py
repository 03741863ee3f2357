"""What is carried between rooms. Shapes: B pictures, C latent channels, h x w latents, N steps, L tokens, D width."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypedDict, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
F = TypeVar("F", bound=Mapping[str, Any])
Proximal = Literal["program", "soft", "hard"]
LoraInit = Literal["gaussian", "uniform"]
"""How the down matrices of a new LoRA are drawn: N(0, 1/rank^2), or as peft does; the up matrices are zero."""


class Track(Protocol):
    """How a command shows what it is doing: `for step in track(steps, "inverting", total): …`."""

    def __call__(self, items: Iterable[T], description: str, total: int) -> Iterable[T]: ...

    def note(self, text: str) -> None:
        """Tell the user one line now, for example which model was chosen."""

    def tell(self, text: str) -> None:
        """The same, of what the user cannot do without, for example an address: --quiet does not hide it."""

    def status(self, text: str) -> None:
        """Figures of the moment, shown in the place of the last ones."""


class Silent:
    """The `Track` of library use: nothing is shown."""

    def __call__(self, items: Iterable[T], description: str, total: int) -> Iterable[T]:
        return items

    def note(self, text: str) -> None:
        return None

    def tell(self, text: str) -> None:
        return None

    def status(self, text: str) -> None:
        return None


silent = Silent()


@dataclass(frozen=True)
class Conditioning:
    """What the UNet is given besides latents and time.

    `prompt_embeds` [B, L, D]; for SDXL also `pooled_prompt_embeds` [B, P] and `time_ids` [B, 6].
    """

    prompt_embeds: torch.Tensor
    pooled_prompt_embeds: torch.Tensor | None = None
    time_ids: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.prompt_embeds)

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Conditioning:
        """The same change to every part, for example a slice of the batch."""
        parts = (self.prompt_embeds, self.pooled_prompt_embeds, self.time_ids)
        return Conditioning(*(None if part is None else change(part) for part in parts))  # type: ignore[arg-type]

    def __getitem__(self, index: slice | Sequence[int]) -> Conditioning:
        return self.map(lambda part: part[index])

    def expand(self, batch: int) -> Conditioning:
        """A batch of one, repeated without copying; a batch of that size, unchanged."""
        return self if len(self) == batch else self.map(lambda part: part.expand(batch, *part.shape[1:]))

    def with_embeds(self, prompt_embeds: torch.Tensor) -> Conditioning:
        return replace(self, prompt_embeds=prompt_embeds)

    def combine(
        self, other: Conditioning, change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    ) -> Conditioning:
        """`change` of every part of this and the same part of another of the same model, for example their mixture."""
        names = ("prompt_embeds", "pooled_prompt_embeds", "time_ids")
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in names}
        return Conditioning(**{name: change(*pair) for name, pair in pairs.items() if pair[0] is not None})

    @staticmethod
    def cat(rows: Sequence[Conditioning]) -> Conditioning:
        import torch

        def join(parts: list[torch.Tensor | None]) -> torch.Tensor | None:
            kept = [part for part in parts if part is not None]
            return torch.cat(kept) if kept else None

        return Conditioning(
            torch.cat([row.prompt_embeds for row in rows]),
            join([row.pooled_prompt_embeds for row in rows]),
            join([row.time_ids for row in rows]),
        )


@dataclass(frozen=True)
class DragPoints:
    """What is dragged where: P handles and their targets, (x, y) in pixels of the upright picture."""

    handles_xy_px: tuple[tuple[float, float], ...]
    targets_xy_px: tuple[tuple[float, float], ...]

    def __len__(self) -> int:
        return len(self.handles_xy_px)


@dataclass(frozen=True)
class LatentTrajectory:
    """Latents on the way from image to noise: `latents` [N+1, B, C, h, w], index 0 the image, index N the noise.

    `timesteps` are the N sampling times in sampling order (descending): `latents[N - i]` enters sampling step i.
    """

    latents: torch.Tensor
    timesteps: tuple[int, ...]

    @property
    def image(self) -> torch.Tensor:
        return self.latents[0]

    @property
    def noise(self) -> torch.Tensor:
        return self.latents[-1]

    def entering(self, step_index: int) -> torch.Tensor:
        """The latents that sampling step `step_index` starts from."""
        return self.latents[len(self.timesteps) - step_index]


@dataclass(frozen=True)
class Inversion:
    """All that is needed to give B pictures back, and to edit them.

    method          name of the inversion, as in `--inversion`
    trajectory      the pivots z*_0..z*_N of DDIM inversion
    reconstruction  latents [B, C, h, w] that guided sampling with `null_embeds` ends on
    null_embeds     [N, G, L, D] per sampling step, G = 1 (shared) or B; None: plain null embedding throughout
    null_pooled     [G, P] for SDXL, where another prompt stands in for the null one; None: the null's own
    sampled         [N+1, B, C, h, w] the guided path, sampling order: index i enters step i; None when not kept
    losses          per step the final inner loss (null-text) or residual, empty when the method has none
    prompts         the source prompt of each picture
    proximal        for `proxnpi`: which rule of proximal guidance an edit goes on with
    """

    method: str
    trajectory: LatentTrajectory
    reconstruction: torch.Tensor
    prompts: tuple[str, ...]
    guidance_scale: float
    null_embeds: torch.Tensor | None = None
    null_pooled: torch.Tensor | None = None
    sampled: torch.Tensor | None = None
    losses: tuple[float, ...] = ()
    converged: bool = True
    unet_calls: int = 0
    extra: dict[str, torch.Tensor] = field(default_factory=dict)
    proximal: Proximal = "program"

    @property
    def num_inference_steps(self) -> int:
        return len(self.trajectory.timesteps)


class ModelRecord(TypedDict, total=False):
    """Which model did it: all or nothing of this."""

    name: str
    fingerprint: str
    loras: list[dict[str, Any]]
    device: str
    dtype: str
    economies: list[str]


Files = dict[str, "str | list[str]"]
"""What a command left, by kind: names in the folder of its result."""


def _nothing() -> Any:
    return {}


@dataclass
class Report(Generic[F]):
    """What a command did: `folder` with its `files`, the figures, and everything needed to do it again.

    figures  F, one of the records in `smoothtool.figures`; empty until it is measured
    """

    command: str
    folder: Path
    job: dict[str, Any]
    files: Files = field(default_factory=dict)
    figures: F = field(default_factory=_nothing)
    seconds: dict[str, float] = field(default_factory=dict)
    unet_calls: int = 0
    notes: list[str] = field(default_factory=list)
    model: ModelRecord = field(default_factory=_nothing)
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of one item of a batch.

    status  made, skipped (made by an earlier run), failed, or waiting (for another run or another machine)
    record  its line in the batch's journal: `name` of the folder that holds the result, `seconds`, `error`; or empty
    """

    name: str
    command: str
    status: str
    record: dict[str, Any]
