"""Prompt-to-Prompt: the target is drawn with the source's attention maps.

Hertz et al., Prompt-to-Prompt Image Editing with Cross Attention Control, ICLR 2023 (arXiv:2208.01626), section 3.2.
Source and target are sampled side by side from the same z_T; on the text half of the target

    replace   A_tgt = A_src M                                  words exchanged one for one
    refine    A_tgt = A_src[mapper] alpha + A_tgt (1 - alpha)  words added
    reweight  A_tgt = A_tgt c                                  columns of chosen words scaled, after the above

in the first floor(0.4 (N + 1)) steps, and self-attention maps of at most 32^2 tokens are the source's in the first
floor(0.6 N): the program's counts. Local blend keeps the source where the chosen words are not looked at. The source
row never leaves its known path, so only its text half is computed: three rows a step instead of four. Several pictures
go together, each with controls of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from smoothtool.diffusion.attention import (
    AttentionLayer,
    CopiedOnce,
    attention_layers,
    attention_probs,
    controlled_attention,
    fused_attention,
)
from smoothtool.diffusion.ddim import ddim_step
from smoothtool.diffusion.layers import layer_choices
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import DenoisingStep
from smoothtool.diffusion.tokens import PromptTokens
from smoothtool.methods.editing.token_alignment import refinement_map, replacement_matrix
from smoothtool.methods.inversion.resume import guidance_rule, null_branch
from smoothtool.types import Conditioning, Inversion

LARGEST_SELF_TOKENS = 32**2
BLEND_AFTER, BLEND_THRESHOLD = 0.2, 0.3

CrossEdit = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(A_src, A_tgt), each [heads, Q, L] -> the target's new map."""
BlendWords = tuple[tuple[int, ...], tuple[int, ...]]
"""Token positions of the blend words in (source, target)."""


@dataclass(frozen=True)
class Controls:
    """What an edit of B pictures controls, and for which part of the steps (0..1).

    cross_edits  of each picture: replace or refine, with reweight behind it, see `cross_edit`
    self_ratio   None: what suits the UNet, 0.6 for SD
    blends       of each picture; none: no local blend
    """

    cross_edits: Sequence[CrossEdit]
    cross_ratio: float = 0.4
    self_ratio: float | None = None
    blends: Sequence[BlendWords] = ()


def cross_edit(source: PromptTokens, target: PromptTokens, weights: dict[tuple[int, ...], float]) -> CrossEdit:
    """Replace when both prompts have as many words, refine otherwise; then scale the columns in `weights`."""
    scale = torch.ones(len(target.ids), device="cpu")
    for positions, weight in weights.items():
        scale[list(positions)] = weight
    scales = CopiedOnce(scale)
    if len(source.words) == len(target.words):
        matrix = CopiedOnce(replacement_matrix(source, target))
        return lambda a_src, a_tgt: a_src @ matrix.like(a_src) * scales.like(a_src)
    mapper, alpha = (CopiedOnce(found) for found in refinement_map(source, target))

    def refine(a_src: torch.Tensor, a_tgt: torch.Tensor) -> torch.Tensor:
        """A = A_src[mapper] alpha + A_tgt (1 - alpha), over the words, which are the last dimension of both."""
        kept = alpha.like(a_src)
        return (a_src[..., mapper.like(a_src)] * kept + a_tgt * (1 - kept)) * scales.like(a_src)

    return refine


@torch.no_grad()
def prompt_to_prompt_steps(
    model: DiffusionModel,
    inversion: Inversion,
    path: torch.Tensor,
    source: Conditioning,
    target: Conditioning,
    null: Conditioning,
    guidance_scale: float,
    controls: Controls,
) -> Iterator[DenoisingStep]:
    """One UNet call of three rows a picture and step.

    path            [N+1, B, C, h, w] latents of the sources in sampling order, see `source_path`
    source, target  B rows each; null has one or B
    """
    steps, null_at, rule = (
        inversion.num_inference_steps,
        null_branch(inversion, null),
        guidance_rule(inversion),
    )
    self_ratio = layer_choices(model.unet).self_share if controls.self_ratio is None else controls.self_ratio
    layers, blend, latents = attention_layers(model.unet), _LocalBlend(model, controls.blends), path[0]
    pictures = len(latents)
    for index, (t, alpha_from, alpha_to) in enumerate(model.schedule.alpha_pairs(steps)):
        attend = _Attend(controls, index, steps, self_ratio, blend)
        batch = torch.cat([latents, path[index], latents])
        texts = Conditioning.cat([null_at(index).expand(pictures), source, target])
        with controlled_attention(layers, attend, batch=3 * pictures):
            noise_null, _, noise_target = model.predict_noise(batch, t, texts).chunk(3)
        noise_pred = rule(noise_null, noise_target, guidance_scale)
        latents = ddim_step(latents, noise_pred, alpha_from, alpha_to)
        if controls.blends and index >= int(BLEND_AFTER * steps):
            latents = blend(path[index + 1], latents)
        yield DenoisingStep(index, t, latents, noise_pred)


class _Attend:
    """The attention of step `index` of N: query [3 B, heads, Q, d], key and value [3 B, heads, K, d].

    The rows: the null halves of all pictures, then their sources, then their targets.
    """

    def __init__(self, controls: Controls, index: int, steps: int, self_ratio: float, blend: _LocalBlend) -> None:
        self.edits = controls.cross_edits if index < int(controls.cross_ratio * (steps + 1)) else ()
        self.inject = index < int(self_ratio * steps)
        self.blend = blend

    def __call__(
        self, layer: AttentionLayer, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        if not layer.is_cross:
            if self.inject and query.shape[2] <= LARGEST_SELF_TOKENS:
                query, key = (torch.cat([null, source, source]) for null, source, _ in (query.chunk(3), key.chunk(3)))
            return fused_attention(query, key, value)
        if not self.edits and not self.blend.reads(layer):
            return fused_attention(query, key, value)
        probs = attention_probs(query, key)
        _, source, target = probs.chunk(3)
        for row, edit in enumerate(self.edits):
            target[row] = edit(source[row], target[row])
        if self.blend.reads(layer):
            self.blend.remember(source, target)
        return probs @ value


@dataclass
class _LocalBlend:
    """Maps of the blend words at the middle resolution, summed over layers, heads, words and steps so far."""

    model: DiffusionModel
    words: Sequence[BlendWords]
    total: torch.Tensor = field(default_factory=lambda: torch.zeros((), device="cpu"))
    downsampling: int = 0

    def __post_init__(self) -> None:
        self.columns = {
            one: CopiedOnce(torch.tensor(one, dtype=torch.long, device="cpu")) for pair in self.words for one in pair
        }
        self.downsampling = layer_choices(self.model.unet).blend_level

    def reads(self, layer: AttentionLayer) -> bool:
        """Whether the blend looks at this layer's maps."""
        return bool(self.words) and layer.downsampling == self.downsampling

    def remember(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Maps [B, heads, Q, L] of the sources and of the targets."""

        def looked_at(probs: torch.Tensor, words: tuple[int, ...]) -> torch.Tensor:
            """[heads, Q, L] -> [Q]."""
            return probs[..., self.columns[words].like(probs)].float().sum(dim=(0, 2))

        rows = [
            torch.stack([looked_at(source[row], words[0]), looked_at(target[row], words[1])])
            for row, words in enumerate(self.words)
        ]
        self.total = self.total.to(rows[0].device) + torch.stack(rows)

    def __call__(self, source: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """z = z_src + m (z - z_src), [B, C, h, w]."""
        height, width = latents.shape[-2:]
        maps = self.total.unflatten(2, (height // self.downsampling, width // self.downsampling))
        return torch.where(torch.cat([blend_mask(pair, (height, width)) for pair in maps]), latents, source)


def blend_mask(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Where either prompt's map [2, h, w] is over 0.3 of its largest value, after a 3 x 3 max-pool: [1, 1, *size]."""
    pooled = F.interpolate(F.max_pool2d(maps[:, None], 3, stride=1, padding=1), size=size)
    masks = pooled / pooled.amax(dim=(2, 3), keepdim=True).clamp(min=1e-12) > BLEND_THRESHOLD
    return masks.any(dim=0, keepdim=True)
