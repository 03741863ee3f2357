"""From latents to an `Inversion`, one station per method of `--inversion`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import constant
from smoothtool.methods.editing.pix2pix_zero import regularised_inversion_steps
from smoothtool.methods.inversion.belm import belm_inversion_steps
from smoothtool.methods.inversion.dci import dci_steps
from smoothtool.methods.inversion.ddim import InversionStep, ddim_inversion_steps, trajectory_of
from smoothtool.methods.inversion.direct import pivot_path
from smoothtool.methods.inversion.edict import edict_inversion_steps, finest
from smoothtool.methods.inversion.fixed_point import FixedPointStep, fixed_point_steps
from smoothtool.methods.inversion.fixed_point_solvers import (
    FixedPointSolver,
    adamw_solver,
    anderson_solver,
    plain_solver,
)
from smoothtool.methods.inversion.negative_prompt import negative_prompt_embeds
from smoothtool.methods.inversion.null_text import (
    NullTextStep,
    Solver,
    adam_solver,
    gauss_newton_solver,
    null_text_steps,
)
from smoothtool.methods.inversion.resume import resumed_steps
from smoothtool.methods.inversion.spdinv import spdinv_steps
from smoothtool.types import Conditioning, Inversion, LatentTrajectory, Track

if TYPE_CHECKING:
    from smoothtool.jobs import InversionJob

CONVERGED_LOSS = 1e-2
"""Latents have unit variance: a mean squared error above 1 % per picture is seen in the picture."""

LOSSES = "losses"
"""In `extra` of an inversion whose pictures were fitted apart: what is left after every step, [N, B]."""


@dataclass(frozen=True)
class Start:
    """What every method starts from: latents [B, C, h, w] of the pictures, or their pivots when these are known."""

    model: DiffusionModel
    latents: torch.Tensor
    text: Conditioning
    null: Conditioning
    prompts: tuple[str, ...]
    job: InversionJob
    track: Track
    known_pivots: LatentTrajectory | None = None

    def pivots(self) -> LatentTrajectory:
        """DDIM's, at guidance 1."""
        if self.known_pivots is not None:
            return self.known_pivots
        return self.walk(ddim_inversion_steps(self.model, self.latents, self.text, self.job.steps))

    def walk(self, steps: Iterable[InversionStep]) -> LatentTrajectory:
        return trajectory_of(self.latents, list(self.track(steps, "inverting", self.job.steps)))

    def unsampled(self, method: str, trajectory: LatentTrajectory) -> Inversion:
        """An inversion that has not been sampled from yet; the image stands in for its reconstruction."""
        return Inversion(method, trajectory, trajectory.image, self.prompts, self.job.guidance)

    def as_null(self, inversion: Inversion) -> Inversion:
        """With the source prompt in the place of the null one, the way of negative-prompt inversion."""
        embeds = negative_prompt_embeds(self.text, self.job.steps)
        return replace(inversion, null_embeds=embeds, null_pooled=self.text.pooled_prompt_embeds)

    def sampled(self, inversion: Inversion, guidance_scale: float, first: int = 0) -> Inversion:
        """Give the pictures back under the source prompt and keep the path; the first latents are the pivots'."""
        path = pivot_path(inversion.trajectory)
        text = constant(self.text)
        steps = resumed_steps(self.model, inversion, path, text, self.null, guidance_scale, first)
        done = list(self.track(steps, "reconstructing", self.job.steps - first))
        whole = torch.cat([path[: first + 1], *(step.latents[None] for step in done)])
        return replace(inversion, sampled=whole, reconstruction=whole[-1])


def _null_text(start: Start) -> Inversion:
    """Per step one null embedding for all pictures; one for each where `start.null` has a row for each."""
    job, pivots = start.job, start.pivots()

    def fitted() -> list[NullTextStep]:
        fit = null_text_steps(start.model, pivots, start.text, start.null, job.guidance, make_solver(job))
        return list(start.track(fit, "fitting null text", job.steps))

    steps = fitted() if len(start.null) > 1 else start.model.within_memory(fitted)  # several apart are divided first
    last_loss = max(steps[-1].last_losses) * len(start.null) / len(start.prompts)
    return replace(
        start.unsampled("nti", pivots),
        reconstruction=steps[-1].latents,
        null_embeds=torch.stack([step.null_embeds for step in steps]),
        sampled=torch.stack([pivots.noise, *(step.latents for step in steps)]),
        losses=tuple(step.losses[-1] for step in steps),
        converged=_converged("nti", [last_loss]),
        extra={LOSSES: torch.tensor([step.last_losses for step in steps], device="cpu")} if len(start.null) > 1 else {},
    )


def _plain_ddim(start: Start) -> Inversion:
    return start.sampled(start.unsampled("ddim", start.pivots()), start.job.guidance)


def _negative_prompt(start: Start) -> Inversion:
    """With the source prompt as null, guidance cancels: the path is that of guidance 1, at half the cost."""
    inversion = start.as_null(start.unsampled("npi", start.pivots()))
    return start.sampled(inversion, guidance_scale=1.0)


def _proximal(start: Start) -> Inversion:
    return replace(_negative_prompt(start), method="proxnpi")


def _direct(start: Start) -> Inversion:
    pivots = start.pivots()
    return replace(start.unsampled("direct", pivots), sampled=pivot_path(pivots))


def _fixed_point(start: Start) -> Inversion:
    steps = fixed_point_steps(start.model, start.latents, start.text, start.job.steps)
    return _solved(start, "fixed-point", steps)


def _spdinv(start: Start) -> Inversion:
    solver = FIXED_POINT_SOLVERS[start.job.fixed_point_solver]()
    return _solved(start, "spdinv", spdinv_steps(start.model, start.latents, start.text, start.job.steps, solver))


def _dci(start: Start) -> Inversion:
    solver = FIXED_POINT_SOLVERS[start.job.fixed_point_solver]()
    return _solved(start, "dci", dci_steps(start.model, start.latents, start.text, start.job.steps, solver))


def _solved(start: Start, method: str, steps: Iterable[FixedPointStep]) -> Inversion:
    """Walk along the solved steps, and back with the source prompt as null; the losses are the residuals."""
    done = list(start.track(steps, "inverting", start.job.steps))
    left = [step.last_residuals for step in reversed(done)]
    worst = tuple(max(residuals) for residuals in left)
    inversion = replace(
        start.as_null(start.unsampled(method, trajectory_of(start.latents, list(done)))),
        losses=worst,
        converged=_converged(method, worst),
        extra={LOSSES: torch.tensor(left, device="cpu")} if len(start.null) > 1 else {},
    )
    return start.sampled(inversion, guidance_scale=1.0)


def _edict(start: Start) -> Inversion:
    latents = finest(start.latents)
    steps = list(
        start.track(
            edict_inversion_steps(start.model, latents, start.text, start.job.steps), "inverting", start.job.steps
        )
    )
    inversion = replace(
        start.as_null(start.unsampled("edict", trajectory_of(latents, list(steps)))),
        extra={"coupled": torch.stack([latents, *(step.coupled for step in steps)])},
    )
    return start.sampled(inversion, guidance_scale=1.0)


def _belm(start: Start) -> Inversion:
    latents = finest(start.latents)
    steps = list(
        start.track(
            belm_inversion_steps(start.model, latents, start.text, start.job.steps), "inverting", start.job.steps
        )
    )
    inversion = start.as_null(start.unsampled("belm", trajectory_of(latents, steps)))
    return start.sampled(inversion, guidance_scale=1.0, first=1)


def _regularised(start: Start) -> Inversion:
    """pix2pix-zero's own: not offered as `--inversion`, because its noise no longer leads back to the picture."""
    assert start.job.seed is not None
    generator = torch.Generator().manual_seed(start.job.seed)
    pivots = start.walk(regularised_inversion_steps(start.model, start.latents, start.text, start.job.steps, generator))
    return start.unsampled("regularised", pivots)


INVERSIONS: dict[str, Callable[[Start], Inversion]] = {
    "nti": _null_text,
    "ddim": _plain_ddim,
    "npi": _negative_prompt,
    "proxnpi": _proximal,
    "direct": _direct,
    "fixed-point": _fixed_point,
    "spdinv": _spdinv,
    "dci": _dci,
    "edict": _edict,
    "belm": _belm,
    "regularised": _regularised,
}


def invert_each(start: Start) -> list[Inversion]:
    """Every picture's own inversion, as it would be alone, from one batch; `start.null` has a row for each."""
    whole = INVERSIONS[start.job.inversion](start)
    losses = whole.extra.pop(LOSSES, None)
    alone = [_picture_of(whole, index) for index in range(len(start.prompts))]
    if losses is None:
        return alone
    return [
        replace(one, losses=tuple(own), converged=_converged(whole.method, own))
        for one, own in zip(alone, losses.T.tolist(), strict=True)
    ]


def _converged(method: str, losses: Sequence[float]) -> bool:
    """Whether one picture came through: null-text at its end, the solved steps of the others at every one."""
    return (losses[-1] if method == "nti" else max(losses) ** 2) <= CONVERGED_LOSS


def _picture_of(whole: Inversion, index: int) -> Inversion:
    """One picture of an inversion whose every part has a row for each."""

    def own(part: torch.Tensor) -> torch.Tensor:
        return part[:, [index]]

    return replace(
        whole,
        trajectory=replace(whole.trajectory, latents=own(whole.trajectory.latents)),
        reconstruction=whole.reconstruction[[index]],
        prompts=(whole.prompts[index],),
        null_embeds=None if whole.null_embeds is None else own(whole.null_embeds),
        null_pooled=None if whole.null_pooled is None else whole.null_pooled[[index]],
        sampled=None if whole.sampled is None else own(whole.sampled),
        extra={name: own(part) for name, part in whole.extra.items()},
    )


def join_inversions(alone: Sequence[Inversion]) -> Inversion:
    """The way back: inversions of one method and length as one batch. Losses are the first one's."""

    def rows(parts: Sequence[torch.Tensor | None], dim: int = 1) -> torch.Tensor | None:
        kept = [part for part in parts if part is not None]
        return torch.cat(kept, dim=dim) if kept else None

    first = alone[0]
    return replace(
        first,
        trajectory=replace(first.trajectory, latents=torch.cat([one.trajectory.latents for one in alone], dim=1)),
        reconstruction=torch.cat([one.reconstruction for one in alone]),
        prompts=tuple(prompt for one in alone for prompt in one.prompts),
        null_embeds=rows([one.null_embeds for one in alone]),
        null_pooled=rows([one.null_pooled for one in alone], dim=0),
        sampled=rows([one.sampled for one in alone]),
        extra={name: torch.cat([one.extra[name] for one in alone], dim=1) for name in first.extra},
    )


def make_solver(job: InversionJob) -> Solver:
    """The null-text solver of the job."""
    if job.solver == "adam":
        return adam_solver(job.inner_steps)
    return gauss_newton_solver(trust_rms=job.null_trust, anchor_weight=job.null_anchor)


FIXED_POINT_SOLVERS: dict[str, Callable[[], FixedPointSolver]] = {
    "anderson": anderson_solver,
    "plain": plain_solver,
    "adamw": adamw_solver,
}
