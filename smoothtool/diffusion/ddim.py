"""The DDIM schedule and its one direction-free step (Song et al. 2021, arXiv:2010.02502, eq. 12 with eta = 0).

A schedule with zero terminal SNR (Lin et al., Common Diffusion Noise Schedules and Sample Steps are Flawed, WACV 2024,
arXiv:2305.08891) ends at abar = 0. There z is eps itself, so that a prediction of eps says nothing of the picture, and
x0_hat cannot be computed from it. At that one level, and nowhere else, what every function here and every method calls
`noise_pred` is the velocity that the model predicts, v = -x0_hat. Guidance and every step stay linear in it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler

from smoothtool.errors import ModelError, UsageError
from smoothtool.readers.fields import Fields, as_fields


def pred_original_sample(latents: torch.Tensor, noise_pred: torch.Tensor, alpha_prod: float) -> torch.Tensor:
    """x0_hat = (z - sqrt(1 - abar) eps) / sqrt(abar); at abar = 0, -v."""
    if alpha_prod == 0:
        return -noise_pred
    return (latents - (1 - alpha_prod) ** 0.5 * noise_pred) / alpha_prod**0.5


def pred_noise(latents: torch.Tensor, noise_pred: torch.Tensor, alpha_prod: float) -> torch.Tensor:
    """eps as the prediction has it; at abar = 0, z."""
    return latents if alpha_prod == 0 else noise_pred


def ddim_step(
    latents: torch.Tensor, noise_pred: torch.Tensor, alpha_prod_from: float, alpha_prod_to: float
) -> torch.Tensor:
    """z_to = sqrt(abar_to) x0_hat + sqrt(1 - abar_to) eps, towards the image or towards noise alike.

    From abar = 0:  z_to = sqrt(1 - abar_to) z - sqrt(abar_to) v.  To abar = 0, the way back along the same v.
    """
    if alpha_prod_to == 0 < alpha_prod_from:
        return (latents + alpha_prod_from**0.5 * noise_pred) / (1 - alpha_prod_from) ** 0.5
    sample = pred_original_sample(latents, noise_pred, alpha_prod_from)
    return alpha_prod_to**0.5 * sample + (1 - alpha_prod_to) ** 0.5 * pred_noise(latents, noise_pred, alpha_prod_from)


def noise_coefficient(alpha_prod_from: float, alpha_prod_to: float) -> float:
    """d z_to / d noise_pred of `ddim_step` towards the image: the step is linear in the prediction."""
    if alpha_prod_from == 0:
        return -(alpha_prod_to**0.5)
    return (1 - alpha_prod_to) ** 0.5 - (alpha_prod_to * (1 - alpha_prod_from) / alpha_prod_from) ** 0.5


def latents_coefficient(alpha_prod_from: float, alpha_prod_to: float) -> float:
    """d z_to / d z of `ddim_step` towards the image, under one and the same prediction."""
    return (1 - alpha_prod_to) ** 0.5 if alpha_prod_from == 0 else (alpha_prod_to / alpha_prod_from) ** 0.5


def noise_from_velocity(
    latents: torch.Tensor, velocity: torch.Tensor, alpha_prod: float | torch.Tensor
) -> torch.Tensor:
    """eps = sqrt(abar) v + sqrt(1 - abar) z (Salimans & Ho 2022, arXiv:2202.00512, appendix D); at abar = 0, v itself.

    alpha_prod  one for all, or a tensor that broadcasts over the rows
    """
    noise = alpha_prod**0.5 * velocity + (1 - alpha_prod) ** 0.5 * latents
    if isinstance(alpha_prod, torch.Tensor):
        return torch.where(alpha_prod == 0, velocity, noise)
    return velocity if alpha_prod == 0 else noise


def noise_target(latents: torch.Tensor, noise: torch.Tensor, alpha_prods: torch.Tensor) -> torch.Tensor:
    """What `noise_pred` should be for z_t of latents z_0 and noise eps: eps; where abar = 0, v = -z_0.

    alpha_prods  broadcasts over the rows
    """
    return torch.where(alpha_prods == 0, -latents, noise)


def error_weights(alpha_prods: torch.Tensor, prediction_type: str) -> torch.Tensor:
    """Factors of the squared error of `noise_pred` that make it the error of what the model predicts.

    An error e of the velocity is one of sqrt(abar) e of eps: 1 / abar; at abar = 0 the velocity's own. Else 1.
    """
    if prediction_type != "v_prediction":
        return torch.ones_like(alpha_prods)
    return torch.where(alpha_prods == 0, 1.0, 1 / alpha_prods)


def add_noise(latents: torch.Tensor, noise: torch.Tensor, alpha_prod: float) -> torch.Tensor:
    """z_t = sqrt(abar) z_0 + sqrt(1 - abar) eps."""
    return alpha_prod**0.5 * latents + (1 - alpha_prod) ** 0.5 * noise


@dataclass(frozen=True)
class Schedule:
    """A model's own noise schedule, read from its scheduler config.

    `alphas_cumprod` are python floats computed in float64; `final_alpha_cumprod` stands for every time below 0.
    """

    alphas_cumprod: tuple[float, ...]
    final_alpha_cumprod: float
    prediction_type: str
    config: dict[str, Any]

    @classmethod
    def from_config(cls, config: Mapping[str, Any], place: str = "the scheduler's config") -> Schedule:
        """Any diffusers scheduler config (PNDM, Euler, …): they share the betas.

        place  the file, which errors name
        Raises: ModelError when a value cannot be meant, or the schedule leaves a noise prediction without signal.
        """
        fields = as_fields(config, place, ModelError, "the scheduler_config.json that the model was trained with")
        betas = _betas(fields)
        products = tuple(torch.cumprod(1 - betas, dim=0).tolist())
        prediction_type = fields.text("prediction_type", "epsilon")
        if 0 in products and prediction_type == "epsilon":
            raise fields.fault(
                f"{place}: the schedule ends in pure noise (zero terminal SNR), from which a model that predicts noise "
                "cannot start",
                "a model that predicts velocities, or rescale_betas_zero_snr false",
            )
        final = 1.0 if fields.truth("set_alpha_to_one", True) else products[0]
        return cls(products, final, prediction_type, _spaced(fields, len(products)))

    def timesteps(self, num_inference_steps: int) -> tuple[int, ...]:
        """The sampling times in sampling order, for SD and N = 50: 981, 961, …, 1.

        Raises: UsageError when the schedule has fewer times.
        """
        if num_inference_steps > len(self.alphas_cumprod):
            raise UsageError(f"--steps {num_inference_steps}: this model's schedule has {len(self.alphas_cumprod)}")
        scheduler = DDIMScheduler(
            num_train_timesteps=len(self.alphas_cumprod),
            timestep_spacing=self.config.get("timestep_spacing") or "leading",
            steps_offset=self.config.get("steps_offset") or 0,
        )
        scheduler.set_timesteps(num_inference_steps)
        last = len(self.alphas_cumprod) - 1
        return tuple(min(int(t), last) for t in scheduler.timesteps)

    def alpha_prod(self, timestep: int) -> float:
        return self.alphas_cumprod[timestep] if timestep >= 0 else self.final_alpha_cumprod

    def alpha_prods(self, timesteps: torch.Tensor) -> torch.Tensor:
        """abar at times [B], all 0 or more, as float32 [B, 1, 1, 1]: for rows that are at different times."""
        return _on_device(self.alphas_cumprod, timesteps.device)[timesteps].view(-1, 1, 1, 1)

    def alpha_pairs(self, num_inference_steps: int) -> list[tuple[int, float, float]]:
        """Per sampling step (timestep t, abar at t, abar where it lands). Inversion walks the list backwards.

        A step lands at t - T/N; with linspace spacing, whose times lie further apart, at the next step's time.
        """
        times = self.timesteps(num_inference_steps)
        if self.config.get("timestep_spacing") == "linspace":
            landings = [*times[1:], -1]
        else:
            stride = len(self.alphas_cumprod) // num_inference_steps
            landings = [t - stride for t in times]
        return [(t, self.alpha_prod(t), self.alpha_prod(at)) for t, at in zip(times, landings, strict=True)]


@lru_cache(maxsize=8)
def _on_device(numbers: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Copied once, not in every step: a copy waits for all that is queued on a GPU."""
    return torch.tensor(numbers, device=device)


BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
SPACINGS = ("leading", "trailing", "linspace")
MOST_TIMES = 100_000


def _betas(config: Fields) -> torch.Tensor:
    """beta_t [T] in float64, rescaled to zero terminal SNR where the config says so."""
    count = config.whole("num_train_timesteps", 1000, low=1, high=MOST_TIMES)
    start = config.number("beta_start", 1e-4, low=1e-8, high=1)
    end = config.number("beta_end", 0.02, low=1e-8, high=1)
    kind = config.text("beta_schedule", "linear")
    if "trained_betas" in config:
        betas = torch.tensor(config.numbers("trained_betas"), dtype=torch.float64, device="cpu")
        if len(betas) != count or not bool(((betas >= 0) & (betas <= 1)).all()):
            raise config.wrong("trained_betas", f"a list of {count} numbers from 0 to 1")
    elif kind == "scaled_linear":
        betas = torch.linspace(start**0.5, end**0.5, count, dtype=torch.float64, device="cpu") ** 2
    elif kind == "linear":
        betas = torch.linspace(start, end, count, dtype=torch.float64, device="cpu")
    elif kind in BETA_SCHEDULES:
        betas = DDIMScheduler(num_train_timesteps=count, beta_schedule=kind).betas.double()
    else:
        raise config.wrong("beta_schedule", f"one of {', '.join(BETA_SCHEDULES)}")
    return _rescaled(betas) if config.truth("rescale_betas_zero_snr", False) else betas


def _rescaled(betas: torch.Tensor) -> torch.Tensor:
    """Shift and scale sqrt(abar) so that it ends at 0 and begins where it did (arXiv:2305.08891, algorithm 1)."""
    signal = torch.cumprod(1 - betas, dim=0).sqrt()
    first, last = signal[0].clone(), signal[-1].clone()
    if len(signal) < 2 or first == last:
        return betas
    products = ((signal - last) * (first / (first - last))).square()
    return 1 - torch.cat([products[:1], products[1:] / products[:-1]])


def _spaced(config: Fields, count: int) -> dict[str, Any]:
    """The config as DDIM reads it. With zero terminal SNR the spacing matters: the class's own, where none is given."""
    kind = config.text("_class_name", "")
    if kind.startswith(("FlowMatch", "EDM")):
        raise config.fault(f"{config.place}: a schedule of {kind} is not supported", "an SD 1.x or 2.x model")
    if config.text("timestep_spacing", "leading") not in SPACINGS:
        raise config.wrong("timestep_spacing", f"one of {', '.join(SPACINGS)}")
    config.whole("steps_offset", 0, high=count - 1)
    spaced = dict(config.values)
    if config.truth("rescale_betas_zero_snr", False) and "timestep_spacing" not in config:
        parameters = inspect.signature(getattr(diffusers, kind, DDIMScheduler).__init__).parameters
        if "timestep_spacing" in parameters:
            spaced["timestep_spacing"] = parameters["timestep_spacing"].default
    return spaced
