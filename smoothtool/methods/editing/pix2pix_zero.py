"""pix2pix-zero: shift the text by an edit direction, and hold the cross-attention maps where they were.

Parmar et al., Zero-shot Image-to-Image Translation, SIGGRAPH 2023 (arXiv:2302.03027). Three parts:

    direction   mean embedding of target sentences minus mean embedding of source sentences (section 3.1)
    inversion   DDIM at w = 1 whose noise predictions are pulled towards white Gaussian noise (eqs. 2, 3)
    guidance    z_t <- z_t - lr d/dz_t sum (A(z_t, shifted) - A_reference)^2, then a guided DDIM step (eq. 4)

The program first samples the whole reference and keeps its maps of every step (gigabytes at SD's size). The reference
does not depend on the edit, so both run side by side here and one step's maps are held: the same numbers.

On purpose not as in the program: its inversion leaves out the first and the last timestep and starts from a sample of
the VAE's posterior; here it walks the whole schedule from the posterior's mean, as every inversion of this project.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F

from smoothtool.diffusion.attention import AttentionLayer, attention_layers, attention_probs, controlled_attention
from smoothtool.diffusion.ddim import ddim_step
from smoothtool.diffusion.economies import keeping_all
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import DenoisingStep, guide
from smoothtool.methods.inversion.ddim import InversionStep
from smoothtool.types import Conditioning

TEMPLATES = (
    "{}",
    "a picture of {}",
    "an image of {}",
    "a photo of {}",
    "a drawing of {}",
    "{} in the centre",
    "one {}",
    "this is {}",
    "a good picture of {}",
    "a close-up of {}",
)
REGULARISATION_ROUNDS, ROLLS = 5, 5
AUTOCORRELATION_WEIGHT = KL_WEIGHT = 20.0
SMALLEST_PYRAMID = 8


def sentences(phrase: str) -> list[str]:
    """The phrase in the built-in sentences."""
    return [template.format(phrase) for template in TEMPLATES]


def edit_direction(source: Conditioning, target: Conditioning) -> Conditioning:
    """[S, L, D] and [T, L, D], one row per sentence -> [1, L, D]; for SDXL the pooled parts go the same way."""
    old, new = (side.map(lambda rows: rows.mean(dim=0, keepdim=True)) for side in (source, target))
    return new.combine(old, torch.sub)


@torch.no_grad()
def regularised_inversion_steps(
    model: DiffusionModel,
    latents: torch.Tensor,
    text: Conditioning,
    num_inference_steps: int,
    generator: torch.Generator,
) -> Iterator[InversionStep]:
    """DDIM inversion at w = 1 of [B, C, h, w] with regularised noise; `generator` draws the shifts, on the CPU."""
    text = text.expand(len(latents))
    for step_index, (t, alpha_prod, alpha_prod_previous) in reversed(
        list(enumerate(model.schedule.alpha_pairs(num_inference_steps)))
    ):
        noise = model.predict_noise(latents, t, text)
        if alpha_prod == 0:  # there the latents are the noise, and the prediction is the picture
            latents = regularised(ddim_step(latents, noise, alpha_prod_previous, alpha_prod), generator)
        else:
            latents = ddim_step(latents, regularised(noise, generator), alpha_prod_previous, alpha_prod)
        yield InversionStep(step_index, t, latents)


def regularised(noise: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Five rounds of gradient descent towards uncorrelated, standard normal noise."""
    for _ in range(REGULARISATION_ROUNDS):
        for _ in range(ROLLS):
            gradient = _gradient(noise, lambda part: autocorrelation(part, generator))
            noise = noise - AUTOCORRELATION_WEIGHT * gradient / ROLLS
        noise = noise - KL_WEIGHT * _gradient(noise, kl_to_standard_normal)
    return noise


def autocorrelation(noise: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Squared correlation with a shifted copy, over a pyramid of halvings down to 8 pixels, summed over channels.

    Every channel has a shift of its own, 1 to side / 2 - 1: a shift of 0 would penalise the variance.
    """
    total = noise.new_zeros(())
    while True:
        half = max(2, min(noise.shape[-2:]) // 2)
        shifts = torch.randint(1, half, noise.shape[1:2], generator=generator, device="cpu")
        for channel, shift in enumerate(shifts.tolist()):
            plane = noise[:, channel]
            for dim in (-2, -1):
                total = total + (plane * plane.roll(shift, dims=dim)).mean(dim=(-2, -1)).square().sum()
        if min(noise.shape[-2:]) <= SMALLEST_PYRAMID:
            return total
        noise = F.avg_pool2d(noise, 2)


def kl_to_standard_normal(noise: torch.Tensor) -> torch.Tensor:
    """var + mean^2 - 1 - log var per picture, twice the KL divergence of its entries' Gaussian to N(0, 1)."""
    flat = noise.flatten(1)
    variance = flat.var(dim=1)
    return (variance + flat.mean(dim=1).square() - 1 - torch.log(variance + 1e-7)).sum()


@torch.no_grad()
def pix2pix_zero_steps(
    model: DiffusionModel,
    start: torch.Tensor,
    source: Conditioning,
    direction: Conditioning,
    null: Conditioning,
    num_inference_steps: int,
    guidance_scale: float,
    learning_rate: float = 0.1,
    *,
    separate_rows: bool = True,
) -> Iterator[DenoisingStep]:
    """Three UNet calls a step: the reference, the gradient on the maps, the guided prediction.

    start          [1, C, h, w] the noise of `regularised_inversion_steps`
    direction      one row, added to the source embedding, see `edit_direction`
    null           the program's is `source`: guidance then pushes from the source to the target, and the reference is
                   the unguided reconstruction
    separate_rows  the program's way: the null row and the text row of the batch are moved each by its own gradient, and
                   the null row is what the DDIM step starts from. Else one latent is moved by the sum of both gradients
    """
    shifted = source.combine(direction, torch.add)
    reference = latents = start
    for index, (t, alpha_from, alpha_to) in enumerate(model.schedule.alpha_pairs(num_inference_steps)):
        kept = _Maps()
        with kept.read(model):
            noise_null, noise_text = _both(model, reference, t, null, source).chunk(2)
        reference = ddim_step(reference, guide(noise_null, noise_text, guidance_scale), alpha_from, alpha_to)
        rows = _two_rows(latents) if separate_rows else latents
        rows = rows - learning_rate * _map_gradient(model, rows, t, null, shifted, kept)
        noise_null, noise_text = _both(model, rows, t, null, shifted).chunk(2)
        noise_pred = guide(noise_null, noise_text, guidance_scale)
        latents = ddim_step(rows[:1], noise_pred, alpha_from, alpha_to)
        yield DenoisingStep(index, t, latents, noise_pred)


class _Maps:
    """The cross-attention maps of one UNet call, [2, heads, Q, L] per layer."""

    def __init__(self) -> None:
        self.by_layer: dict[str, torch.Tensor] = {}

    def read(self, model: DiffusionModel) -> AbstractContextManager[None]:
        """Calls of two rows inside are as ever, and leave their maps here."""
        layers = [layer for layer in attention_layers(model.unet) if layer.is_cross]
        return controlled_attention(layers, self._attend, batch=2)

    def _attend(
        self, layer: AttentionLayer, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        probs = self.by_layer[layer.name] = attention_probs(query, key)
        return probs @ value

    def distance(self, other: _Maps) -> torch.Tensor:
        """Squared differences, summed over positions and layers, mean over rows and heads."""
        pairs = [(maps.float(), other.by_layer[name].float()) for name, maps in self.by_layer.items()]
        return torch.stack([(a - b).square().sum(dim=(2, 3)).mean() for a, b in pairs]).sum()


def _both(
    model: DiffusionModel, latents: torch.Tensor, timestep: int, null: Conditioning, text: Conditioning
) -> torch.Tensor:
    """[2, C, h, w] the predictions under the null text and the text, for one latent [1, C, h, w] or one for each."""
    return model.predict_noise(_two_rows(latents), timestep, Conditioning.cat([null, text]))


def _two_rows(latents: torch.Tensor) -> torch.Tensor:
    """[1 or 2, C, h, w] -> [2, C, h, w]."""
    return latents.expand(2, *latents.shape[1:])


def _map_gradient(
    model: DiffusionModel,
    latents: torch.Tensor,
    timestep: int,
    null: Conditioning,
    shifted: Conditioning,
    reference: _Maps,
) -> torch.Tensor:
    """d/dz_t of the distance between the shifted text's maps and the reference's, in the shape of the latents."""

    def distance(candidate: torch.Tensor) -> torch.Tensor:
        """A scalar of the latents [1 or 2, C, h, w]."""
        maps = _Maps()
        with keeping_all(model.unet), maps.read(model):
            _both(model, candidate, timestep, null, shifted)
        return maps.distance(reference)

    return _gradient(latents, distance)


def _gradient(at: torch.Tensor, loss: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Of a scalar loss, in the shape of `at`."""
    with torch.enable_grad():
        point = at.detach().requires_grad_(True)
        return torch.autograd.grad(loss(point), point)[0]
