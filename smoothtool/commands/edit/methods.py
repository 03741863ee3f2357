"""From a source and a target prompt to edited latents: one station per method of `--method`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from smoothtool.commands.invert.cached import Inverted
from smoothtool.commands.invert.methods import join_inversions
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import DenoisingStep, noise_like
from smoothtool.diffusion.tokens import PromptTokens, prompt_tokens
from smoothtool.errors import ModelError, UsageError
from smoothtool.files.pictures.images import Fitted
from smoothtool.jobs import parse_weight
from smoothtool.methods.editing.cycle import cycle_steps
from smoothtool.methods.editing.disentangle import PictureLoss, disentangle_steps
from smoothtool.methods.editing.flowedit import flowedit_steps
from smoothtool.methods.editing.masactrl import masactrl_steps
from smoothtool.methods.editing.pix2pix_zero import edit_direction, pix2pix_zero_steps, sentences
from smoothtool.methods.editing.plug_and_play import plug_and_play_steps
from smoothtool.methods.editing.prompt_switch import prompt_switch_steps, switch_index
from smoothtool.methods.editing.prompt_to_prompt import (
    BlendWords,
    Controls,
    CrossEdit,
    cross_edit,
    prompt_to_prompt_steps,
)
from smoothtool.methods.editing.sdedit import sdedit_steps, start_index
from smoothtool.methods.inversion.resume import null_branch, source_path
from smoothtool.metrics.clip_score import Clip, load_clip
from smoothtool.types import Conditioning, Inversion, Track
from smoothtool.weights.models import STICKERS

if TYPE_CHECKING:
    from smoothtool.jobs import EditJob


@dataclass(frozen=True)
class Source:
    """A picture ready to be edited by `job.method`, inverted if that method wants it."""

    model: DiffusionModel
    job: EditJob
    track: Track
    picture: Fitted
    inverted: Inverted | None

    @property
    def inversion(self) -> Inversion:
        assert self.inverted is not None, f"{self.job.method} was given no inversion"
        return replace(self.inverted.inversion, proximal=self.job.proximal)

    @property
    def latents(self) -> torch.Tensor:
        """[1, C, h, w] of the picture."""
        if self.inverted is not None:
            return self.inversion.trajectory.image
        return self.model.encode_images(self.picture.pixel_values)

    def text(self, prompt: str) -> Conditioning:
        return self.model.encode_prompts([prompt])

    @property
    def null(self) -> Conditioning:
        """Of guidance: the negative prompt, or the model's own."""
        return self.model.encode_null(self.job.negative)

    @property
    def path(self) -> torch.Tensor:
        return source_path(self.model, self.inversion, self.text(self.job.src), self.null)

    def last(self, steps: Iterable[DenoisingStep], total: int, otherwise: torch.Tensor) -> torch.Tensor:
        """Walk to the end of the steps; `otherwise` are the latents when there is none."""
        latents = otherwise
        for step in self.track(steps, "editing", total):
            latents = step.latents
        return latents


@dataclass(frozen=True)
class _Several:
    """Sources of one size and the same settings as one batch, a target prompt for each."""

    sources: Sequence[Source]
    targets: Sequence[str]

    @property
    def first(self) -> Source:
        """Of what they share: the model, the settings."""
        return self.sources[0]

    @property
    def latents(self) -> torch.Tensor:
        """[B, C, h, w] of the pictures."""
        return torch.cat([source.latents for source in self.sources])

    @property
    def generators(self) -> list[torch.Generator]:
        return [_generator(source.job) for source in self.sources]

    @cached_property
    def source(self) -> Conditioning:
        """The source prompts."""
        return self.first.model.encode_prompts([source.job.src for source in self.sources])

    @cached_property
    def target(self) -> Conditioning:
        """The target prompts."""
        return self.first.model.encode_prompts(self.targets)

    @property
    def texts(self) -> tuple[Conditioning, Conditioning, Conditioning]:
        """Source prompts, target prompts, and the null prompt, which is one."""
        return self.source, self.target, self.first.null

    def inverted(self) -> tuple[Inversion, torch.Tensor]:
        """The inversions as one, and the path [N+1, B, C, h, w] of the sources in sampling order."""
        inversion = join_inversions([source.inversion for source in self.sources])
        return inversion, source_path(self.first.model, inversion, self.source, self.first.null)


def _switch(several: _Several, ratio: float) -> torch.Tensor:
    model, job, null = several.first.model, several.first.job, several.first.null
    inversion, path = several.inverted()
    steps = prompt_switch_steps(model, inversion, path, several.target, null, ratio, job.guidance)
    return several.first.last(steps, job.steps - switch_index(ratio, job.steps), otherwise=path[-1])


def _sdedit(several: _Several, ratio: float) -> torch.Tensor:
    model, job, latents = several.first.model, several.first.job, several.latents
    noise = noise_like(latents, several.generators)
    texts = several.target, several.first.null
    steps = sdedit_steps(model, latents, noise, *texts, job.strength, job.steps, job.guidance)
    return several.first.last(steps, job.steps - start_index(job.strength, job.steps), otherwise=latents)


def _cycle(several: _Several, ratio: float) -> torch.Tensor:
    model, job, latents = several.first.model, several.first.job, several.latents
    draws = several.generators
    steps = cycle_steps(model, latents, *several.texts, job.steps, job.guidance, draws, strength=job.strength)
    return several.first.last(steps, job.steps - start_index(job.strength, job.steps), otherwise=latents)


def _flowedit(several: _Several, ratio: float) -> torch.Tensor:
    model, job, latents = several.first.model, several.first.job, several.latents
    draws = several.generators
    steps = flowedit_steps(
        model, latents, *several.texts, job.steps, job.guidance, draws, job.source_guidance, job.strength
    )
    return several.first.last(steps, job.steps - start_index(job.strength, job.steps), otherwise=latents)


def _prompt_to_prompt(several: _Several, ratio: float) -> torch.Tensor:
    job = several.first.job
    each = [_word_controls(source, target) for source, target in zip(several.sources, several.targets, strict=True)]
    edits, blends = [edit for edit, _ in each], [blend for _, blend in each if blend]
    controls = Controls(edits, job.cross_steps, job.self_steps, blends)
    inversion, path = several.inverted()
    steps = prompt_to_prompt_steps(several.first.model, inversion, path, *several.texts, job.guidance, controls)
    return several.first.last(steps, job.steps, otherwise=several.latents)


def _word_controls(source: Source, target: str) -> tuple[CrossEdit, BlendWords | None]:
    """How this picture's words look at each other, and the tokens of its blend words."""
    job, tokenizer = source.job, source.model.tokenizer
    tokens = prompt_tokens(tokenizer, job.src), prompt_tokens(tokenizer, target)
    weights = {_positions(tokens[1:], word): factor for word, factor in map(parse_weight, job.reweight)}
    for word in job.blend:
        _positions(tokens, word)
    before, after = (tuple(p for word in job.blend for p in side.positions(word)) for side in tokens)
    return cross_edit(*tokens, weights), (before, after) if job.blend else None


def _positions(prompts: tuple[PromptTokens, ...], word: str) -> tuple[int, ...]:
    """The word's tokens in the last of the prompts that has it.

    Raises: UsageError when none has it, or it is cut off.
    """
    found = [side.positions(word) for side in prompts if side.positions(word)]
    if not found:
        seen = " / ".join(" ".join(side.words) for side in prompts)
        raise UsageError(f"the word {word!r} is not among those that the model sees: {seen}", "a whole word of them")
    return found[-1]


def _plug_and_play(source: Source, target: str, ratio: float) -> torch.Tensor:
    trajectory = source.inversion.trajectory
    texts = (source.text(""), source.text(target), source.null)
    steps = plug_and_play_steps(source.model, trajectory, *texts, source.job.guidance)
    return source.last(steps, source.job.steps, otherwise=source.latents)


def _masactrl(source: Source, target: str, ratio: float) -> torch.Tensor:
    job = source.job
    texts = (source.text(job.src), source.text(target), source.null)
    steps = masactrl_steps(source.model, source.inversion, source.path, *texts, job.guidance)
    return source.last(steps, job.steps, otherwise=source.latents)


def _pix2pix_zero(source: Source, target: str, ratio: float) -> torch.Tensor:
    job, model = source.job, source.model
    groups = (job.src_sentence or sentences(job.src), job.trg_sentence or sentences(target))
    direction = edit_direction(*(model.encode_prompts(group) for group in groups))
    both = job.map_rows == "both"
    start, text = source.inversion.trajectory.noise, source.text(job.src)
    null = text if both else source.null
    steps = pix2pix_zero_steps(model, start, text, direction, null, job.steps, job.guidance, separate_rows=both)
    return source.last(steps, job.steps, otherwise=source.latents)


def _disentangle(source: Source, target: str, ratio: float) -> torch.Tensor:
    job, inversion = source.job, source.inversion
    loss = _directional_loss(clip_of(job), source.picture.pixel_values, job.src, target)
    null_at = null_branch(inversion, source.null)
    epochs = disentangle_steps(
        source.model,
        inversion.trajectory.noise,
        source.text(job.src),
        source.text(target),
        null_at,
        job.steps,
        job.guidance,
        loss,
    )
    best = min(source.track(epochs, "learning when to listen", 10), key=lambda epoch: epoch.loss)
    return best.latents


def _directional_loss(clip: Clip, original: torch.Tensor, source: str, target: str) -> PictureLoss:
    """0.05 perceptual distance + 1 - cos(change of the picture, change of the text) in CLIP space (Wu et al., eq. 7).

    The perceptual distance is the CLIP's own over patches: the paper's VGG would be a download.
    """
    with torch.no_grad():
        before, texts = clip.image_features(original), clip.text_features([source, target])
    asked = texts[[1]] - texts[[0]]

    def loss(picture: torch.Tensor) -> torch.Tensor:
        picture = picture.cpu()
        change = clip.image_features(picture) - before
        agreement = F.cosine_similarity(change, asked).mean()
        return 0.05 * clip.patch_distance(picture, original).mean() + 1 - agreement

    return loss


def clip_of(job: EditJob) -> Clip:
    """The CLIP of the job.

    Raises: ModelError when it is not on this machine.
    """
    if job.clip != "stickers":
        return load_clip(job.clip)
    if not (STICKERS / "clip").is_dir():
        raise ModelError("--clip stickers: the embedded CLIP is missing from this installation", "--clip with a folder")
    return load_clip(STICKERS / "clip")


def _generator(job: EditJob) -> torch.Generator:
    assert job.seed is not None, "commands fix the seed first"
    return torch.Generator().manual_seed(job.seed)


EDITS_OF_SEVERAL: dict[str, Callable[[_Several, float], torch.Tensor]] = {
    "switch": _switch,
    "sdedit": _sdedit,
    "cycle": _cycle,
    "flowedit": _flowedit,
    "p2p": _prompt_to_prompt,
}
"""(several sources, switch ratio) -> edited latents [B, C, h, w]. The other methods take one picture at a time."""


def edit_several(sources: Sequence[Source], targets: Sequence[str], ratio: float) -> torch.Tensor:
    """Edit sources of one size and the same settings at once, by a method of `EDITS_OF_SEVERAL`: [B, C, h, w]."""
    return EDITS_OF_SEVERAL[sources[0].job.method](_Several(sources, targets), ratio)


def _alone(source: Source, target: str, ratio: float) -> torch.Tensor:
    return edit_several([source], [target], ratio)


EDITS: dict[str, Callable[[Source, str, float], torch.Tensor]] = {
    "switch": _alone,
    "sdedit": _alone,
    "p2p": _alone,
    "pnp": _plug_and_play,
    "pix2pix-zero": _pix2pix_zero,
    "cycle": _alone,
    "flowedit": _alone,
    "disentangle": _disentangle,
    "masactrl": _masactrl,
}
"""(source, target prompt, switch ratio) -> edited latents [1, C, h, w]. The ratio means something to switch alone."""
