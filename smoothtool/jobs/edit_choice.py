"""`--method auto`: what kind of edit the two prompts ask for, and the method that was measured to do that best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from pydantic import ValidationError

from smoothtool.errors import UsageError
from smoothtool.jobs.edit import EDIT_INVERSIONS, READ_BY, EditJob
from smoothtool.jobs.notation import words_of

REPLACE, ADD, STYLE, BACKGROUND = "replace", "add", "style", "background"
ANY, INVERTED, NO_SOURCE = "any", "inverted", "no source"
ASKED = {
    REPLACE: "words are replaced",
    ADD: "words are added",
    STYLE: "the style changes",
    BACKGROUND: "the background changes",
    ANY: "the prompts differ in several ways",
    INVERTED: "an inversion under --src is given",
    NO_SOURCE: "there is no --src",
}
"""Kinds of edit, as notes name them."""


@dataclass(frozen=True)
class Winner:
    """The method that came closest to the true edit, of those that carried the edit out.

    scenes       how many it was measured on
    to_truth_db  PSNR to the true edit where that changes the picture
    kept_db      PSNR to the source elsewhere
    settings     other options that it was measured with
    """

    method: str
    inversion: str
    scenes: int
    to_truth_db: float
    kept_db: float
    settings: Mapping[str, Any] = field(default_factory=dict)


WINNERS = {
    REPLACE: Winner("pnp", "ddim", 15, 14.4, 28.9),
    ADD: Winner("flowedit", "none", 15, 12.8, 22.2),
    STYLE: Winner("pnp", "ddim", 15, 17.0, 33.4),
    BACKGROUND: Winner("p2p", "direct", 15, 23.8, 25.8),
    ANY: Winner("p2p", "direct", 60, 16.5, 29.1),
    NO_SOURCE: Winner("pnp", "ddim", 60, 16.8, 28.2),
}
"""By kind of edit; a kind that is not here takes the winner over all kinds, ANY.

Chosen by `tests/benchmarks/bench_edits.py --half find --winners`; the figures are of all scenes.
"""

STYLES = frozenset(
    words_of(
        "3d anime art cartoon charcoal clay comic cubist drawing engraving flat illustration impressionist ink lego "
        "lineart manga mosaic oil origami painting pastel pencil photo photograph photorealistic pixel pop realistic "
        "render sketch statue stained style watercolor watercolour woodcut"
    )
)
PLACES = frozenset(
    words_of(
        "above across against among amid around at before behind below beneath beside by during in inside near on "
        "outside over through under underwater"
    )
)
"""Words that begin a phrase about where something is."""
BREAKS = frozenset(words_of("and holding of wearing while with"))
"""Words that end such a phrase."""


def kind_of_edit(src: str, trg: str) -> str:
    """What changes from one prompt to the other, span by span; ANY when the spans are of different kinds."""
    if not src.strip():
        return NO_SOURCE
    before, after = words_of(src), words_of(trg)
    spans = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    kinds = {_kind_of_span(tag, before[a:b], after[c:d], after[:c]) for tag, a, b, c, d in spans if tag != "equal"}
    return kinds.pop() if len(kinds) == 1 else ANY


def _kind_of_span(tag: str, old: Sequence[str], new: Sequence[str], left: Sequence[str]) -> str:
    """The kind of one changed span, with the words of the target prompt to its left."""
    if STYLES.intersection(old) or STYLES.intersection(new):
        return STYLE
    if (tag == "insert" and new[0] in PLACES) or _in_place_phrase(left):
        return BACKGROUND
    return {"replace": REPLACE, "insert": ADD}.get(tag, ANY)


def _in_place_phrase(left: Sequence[str]) -> bool:
    """Whether the last word to the left that begins or ends a phrase about a place begins one."""
    return next((word in PLACES for word in reversed(left) if word in PLACES or word in BREAKS), False)


def chosen(job: EditJob) -> EditJob:
    """The job with `auto` replaced by a method and its inversion, which `job.origins` explains.

    The winner for that kind of edit, or the first method, in the order of the help, that does with what was given.

    Raises: UsageError when none does.
    """
    if job.method != "auto" or job.compare:
        return job
    kinds = {kind_of_edit(job.src, target) for target in job.trg}
    kind = kinds.pop() if len(kinds) == 1 else ANY
    if WINNERS.get(kind, WINNERS[ANY]).method == "pnp" and job.src and _brings_an_inversion(job):
        kind = INVERTED  # while Plug-and-Play's is under the empty prompt
    winner = WINNERS.get(kind, WINNERS[ANY])
    best: dict[str, Any] = {"method": winner.method, "inversion": _unless_own(winner), **winner.settings}
    for own in (best, *({"method": method} for method in EDIT_INVERSIONS)):
        if valid := _with(job, own):
            break
    else:
        raise UsageError(f"no method goes with {' and '.join(_given(job))} together", "smoothtool edit --help")
    why = _reason(kind, winner) if own is best else f"chosen because it goes with {' and '.join(_given(job))}"
    left = own.keys() - _own_keys(job)
    origins = {name: origin for name, origin in job.origins.items() if name not in left} | {"method": why}
    return job.completed({name: getattr(valid, name) for name in left}, origins)


def _brings_an_inversion(job: EditJob) -> bool:
    """Whether an inversion is asked for, or the picture is an inversion file."""
    return job.inversion != "auto" or str(job.image).lower().endswith(".safetensors")


def _with(job: EditJob, own: Mapping[str, Any]) -> EditJob | None:
    """The job with these values where it gives none itself; None when they do not go together."""
    given = {name: getattr(job, name) for name in _own_keys(job)}
    filled = {name: getattr(job, name) for name in job.origins}
    try:
        return EditJob.model_validate(filled | dict(own) | given)
    except ValidationError:
        return None


def _own_keys(job: EditJob) -> set[str]:
    """The options that were given with the job, but for the method, which is open."""
    return job.model_fields_set - job.origins.keys() - {"method"}


def _unless_own(winner: Winner) -> str:
    """The winner's inversion; `auto` where that is the method's own, so that an inversion file may be any that fits."""
    fitting = EDIT_INVERSIONS[winner.method][0]
    return winner.inversion if winner.inversion in fitting[1:] else "auto"


def _reason(kind: str, winner: Winner) -> str:
    inversion = f"on {winner.inversion} inversion" if EDIT_INVERSIONS[winner.method][0] else "without inversion"
    settings = "".join(f", {name} {value}" for name, value in winner.settings.items())
    return (
        f"chosen because {ASKED[kind]}: {inversion}{settings} it came closest to the true edit of "
        f"{winner.scenes} drawn scenes, {winner.to_truth_db:g} dB where that changes the picture and "
        f"{winner.kept_db:g} dB where it does not"
    )


def _given(job: EditJob) -> list[str]:
    """What decides the method, as flags."""
    names = [
        name for name in (*READ_BY, "inversion", "negative") if getattr(job, name) != EditJob.model_fields[name].default
    ]
    return [f"--{name.replace('_', '-')}" for name in names] or ["a picture without --src"]
