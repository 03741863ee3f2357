"""A loaded Stable Diffusion model, behind four verbs: encode and decode pictures, encode prompts, predict noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTokenizer

from smoothtool.diffusion.ddim import Schedule, noise_from_velocity
from smoothtool.diffusion.economies import OF_PICTURES, WITH_GRADIENTS, WITHOUT_GRADIENTS, Economies, release
from smoothtool.diffusion.memory import failing_in_time
from smoothtool.diffusion.text import PromptEncoder, added_conditions
from smoothtool.errors import MemoryExhaustedError, ModelError, UsageError, out_of_memory
from smoothtool.types import Conditioning
from smoothtool.weights.passes import DRAWN_AT_ONCE, latents_a_side, rows_at_once

T = TypeVar("T")
Limit = Literal["max_batch", "max_pictures"]
SMALLER = "a smaller --size, or --dtype float16"
_SAVINGS = {"max_batch": WITHOUT_GRADIENTS, "max_pictures": OF_PICTURES}


@dataclass
class UNetCalls:
    """How often the UNet ran: forward passes, and pictures (rows) in them."""

    calls: int = 0
    rows: int = 0


@dataclass
class DiffusionModel:
    """UNet, VAE and text encoders, all frozen; latents and embeddings go in and out as float32.

    fingerprint  short digest of all weights, the same in float32 and float16 storage
    economies    what saves memory; more of it is used when memory runs out
    max_batch    most rows in one UNet call; halved when memory runs out
    max_pictures the same of one VAE call; of large pictures it takes fewer, see `DRAWN_AT_ONCE`
    """

    name: str
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text: PromptEncoder
    schedule: Schedule
    device: torch.device
    dtype: torch.dtype
    fingerprint: str
    economies: Economies
    loras: list[dict[str, Any]] = field(default_factory=list)
    max_batch: int = 64
    max_pictures: int = 64
    counter: UNetCalls = field(default_factory=UNetCalls)
    _prompt_cache: dict[str, Conditioning] = field(default_factory=dict, repr=False)
    _null_cache: list[Conditioning] = field(default_factory=list, repr=False)

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Everything with weights, by the name of its folder in a diffusers model."""
        return {"unet": self.unet, "vae": self.vae, **self.text.encoders}

    @property
    def lora_parts(self) -> dict[str, nn.Module]:
        """The parts that LoRAs change: UNet and text encoders."""
        return {"unet": self.unet, **self.text.encoders}

    @property
    def _unet_dtype(self) -> torch.dtype:
        """Of its first weight. diffusers' own `dtype` looks at every module, which takes milliseconds with a LoRA."""
        return next(self.unet.parameters()).dtype

    def identity(self) -> dict[str, Any]:
        """What all its results depend on: `model`, the fingerprint, and `loras`, [fingerprint, scale] of each."""
        return {"model": self.fingerprint, "loras": [[lora["fingerprint"], lora["scale"]] for lora in self.loras]}

    @property
    def tokenizer(self) -> CLIPTokenizer:
        """The one that says which token belongs to which word."""
        return self.text.tokenizers["tokenizer"]

    @property
    def vae_scale_factor(self) -> int:
        """Pixels per latent, 8 for SD."""
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def size_multiple(self) -> int:
        """Pictures are padded to this many pixels, so that every UNet level halves evenly."""
        return self.vae_scale_factor * int(2 ** (len(self.unet.config.block_out_channels) - 1))

    @property
    def native_size_px(self) -> int:
        """Side of the square pictures the model was trained on, 512 for SD 1.x."""
        return latents_a_side(self.unet.config) * self.vae_scale_factor

    def picture_size_px(self, latent_shape: Sequence[int]) -> tuple[int, int]:
        """(width, height) of the picture whose latents have the shape (…, h, w)."""
        height, width = (side * self.vae_scale_factor for side in latent_shape[-2:])
        return width, height

    def noise_shape(self, size_px: tuple[int, int] | int | None) -> tuple[int, int, int]:
        """(C, h, w) of the noise for a picture of (width, height) or one side; None is the native size.

        Raises: UsageError when a side is no multiple of what the model can make.
        """
        wanted = size_px or self.native_size_px
        width, height = (wanted, wanted) if isinstance(wanted, int) else wanted
        multiple, factor = self.size_multiple, self.vae_scale_factor
        if width % multiple or height % multiple:
            raise UsageError(
                f"--size {width}x{height}: pictures made from noise need multiples of {multiple} pixels",
                f"--size {8 * multiple}",
            )
        return int(self.unet.config.in_channels), height // factor, width // factor

    @torch.no_grad()
    def encode_images(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """pixel_values [B, 3, H, W] in [-1, 1] -> latents [B, C, h, w]: posterior mean times the scaling factor."""
        return self.encode_posterior(pixel_values)[0]

    @torch.no_grad()
    def encode_posterior(self, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """pixel_values [B, 3, H, W] in [-1, 1] -> mean and standard deviation of the latents, each [B, C, h, w]."""

        def encode(part: slice) -> torch.Tensor:
            posterior = self.vae.encode(pixel_values[part].to(self.device, self.vae.dtype)).latent_dist
            return torch.stack([posterior.mean.float(), posterior.std.float()], dim=1)

        mean, deviation = self._through_vae(encode, pixel_values, pixel_values.shape[-2:]).unbind(dim=1)
        factor = float(self.vae.config.scaling_factor)
        return mean * factor, deviation * factor

    @torch.no_grad()
    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """latents [B, C, h, w] -> pixel_values [B, 3, H, W] in [-1, 1] on the CPU.

        Raises: ModelError when the latents or the decoded picture are not finite.
        """
        scaled = latents / self.vae.config.scaling_factor

        def decode(part: slice) -> torch.Tensor:
            return self.vae.decode(scaled[part].to(self.vae.dtype)).sample.float().cpu()

        pixel_values = self._through_vae(decode, scaled, self.picture_size_px(scaled.shape))
        if not bool(torch.isfinite(pixel_values).all()):
            raise self._no_picture()
        return pixel_values.clamp(-1, 1)

    def _no_picture(self) -> ModelError:
        """Why a picture came out as NaN, looked for only then: every weight has to be read."""
        for part, module in self.parts.items():
            for key, value in module.named_parameters():
                if not bool(value.isfinite().all()):
                    what = f"{self.name}: the weights of {part} are not finite ({key})"
                    return ModelError(what, "another copy of the model")
        return ModelError(f"{self.name}: the picture came out as NaN", "--dtype float32, or lower --guidance")

    def _through_vae(
        self, work: Callable[[slice], torch.Tensor], given: torch.Tensor, size_px: Sequence[int]
    ) -> torch.Tensor:
        """`work` on the rows of what is given, pictures of that size or their latents. SDXL's first VAE, and fine-tunes
        that say nothing of it, overflow in float16: where finite numbers become others, it is computed again in
        float32, and the VAE stays so.
        """
        at_once = rows_at_once(size_px, DRAWN_AT_ONCE)
        found = self._in_parts(work, len(given), "max_pictures", at_once)
        if self.vae.dtype == torch.float32 or bool(found.isfinite().all()) or not bool(given.isfinite().all()):
            return found
        precision = str(self.vae.dtype).removeprefix("torch.")
        self.economies.say(f"the VAE gave NaN in {precision}: computed again in float32, in which it stays")
        self.vae.to(torch.float32)
        return self._in_parts(work, len(given), "max_pictures", at_once)

    def decode_latents_with_gradient(self, latents: torch.Tensor) -> torch.Tensor:
        """The same on the model's device, differentiable: for losses of the finished picture."""
        scaled = (latents / self.vae.config.scaling_factor).to(self.vae.dtype)
        return self.vae.decode(scaled).sample.float().clamp(-1, 1)

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """One row per prompt, [B, L, D]. Prompts over the token limit are cut; ask `cut_from` what was lost."""
        for prompt in set(prompts) - self._prompt_cache.keys():
            self._prompt_cache[prompt] = self.text.encode(prompt, self.device)
        return Conditioning.cat([self._prompt_cache[prompt] for prompt in prompts])

    @torch.no_grad()
    def encode_null(self, negative: str = "") -> Conditioning:
        """One row for the null half of guidance: the negative prompt, or what the model itself takes for none."""
        if negative:
            return self.encode_prompts([negative])
        if not self._null_cache:
            self._null_cache.append(self.text.null(self.device))
        return self._null_cache[0]

    def cut_from(self, prompt: str) -> str:
        """The end of the prompt that does not fit the text encoder, or an empty string."""
        tokens = self.tokenizer(prompt, add_special_tokens=False).input_ids
        return str(self.tokenizer.decode(tokens[self.tokenizer.model_max_length - 2 :])).strip()

    def forget_prompts(self) -> None:
        """Embeddings are remembered by text; a LoRA on the text encoder makes them stale."""
        self._prompt_cache.clear()
        self._null_cache.clear()

    def predict_noise(
        self, latents: torch.Tensor, timestep: int | torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """eps [B, C, h, w] in the latents' own dtype (float32), whatever the UNet predicts and computes in.

        At a time with abar = 0, the noisiest of a zero-SNR schedule, it is the velocity instead: see `ddim`.

        timestep  one for all, or in autograd also one per row, [B]
        Differentiable in latents and conditioning. Outside autograd the batch is split to `max_batch` rows, halved
        when memory runs out.
        Raises: MemoryExhaustedError when one row does not fit.
        """
        if torch.is_grad_enabled():
            return self._predict(latents, timestep, conditioning)
        return self._in_parts(
            lambda part: self._predict(latents[part], timestep, conditioning[part]), len(latents), "max_batch"
        )

    def within_memory(self, work: Callable[[], T]) -> T:
        """Work with gradients, begun again when memory runs out, with one economy more each time.

        Raises: MemoryExhaustedError when none is left.
        """
        while True:
            left = self.economies.left(WITH_GRADIENTS)
            try:
                with nullcontext() if left is None else failing_in_time(self.device):
                    return work()
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                if left is None:
                    raise MemoryExhaustedError("out of memory, with everything done to save it", SMALLER) from error
            self.economies.use_next(WITH_GRADIENTS)  # past the handler, which holds on to what did not fit

    def _in_parts(
        self, work: Callable[[slice], torch.Tensor], count: int, limit: Limit, at_once: int | None = None
    ) -> torch.Tensor:
        """`work` on `count` rows, `at_once` or as many as the limit says, which is halved when memory runs out."""
        while True:
            most = min(getattr(self, limit), at_once or count)
            last = min(most, count) == 1 and self.economies.left(_SAVINGS[limit]) is None
            try:
                with nullcontext() if last else failing_in_time(self.device):
                    return torch.cat([work(slice(at, at + most)) for at in range(0, count, most)])
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                if last:
                    raise MemoryExhaustedError("out of memory with one picture at a time", SMALLER) from error
            self._need_less(min(most, count), limit)

    def _need_less(self, most: int, limit: Limit) -> None:
        """Rows of the UNet may belong together, so that they are divided last; pictures of the VAE never do."""
        if limit == "max_pictures" and most > 1:
            release(self.device)
        elif self.economies.use_next(_SAVINGS[limit]):
            return
        setattr(self, limit, most // 2)

    def predict_noise_at(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        conditioning: Conditioning,
        unet: Callable[..., tuple[torch.Tensor, ...]] | None = None,
    ) -> torch.Tensor:
        """eps [B, C, h, w] in float32 (v where abar = 0), every sample at its own time, as training wants it.

        Differentiable, and never split.

        latents    [B, C, h, w]
        timesteps  [B] whole numbers
        unet       stands in for the model's own, for example compiled
        """
        return self._predict(latents, timesteps, conditioning, unet, torch.float32)

    def _predict(
        self,
        latents: torch.Tensor,
        timestep: int | torch.Tensor,
        conditioning: Conditioning,
        unet: Callable[..., tuple[torch.Tensor, ...]] | None = None,
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        self.counter.calls += 1
        self.counter.rows += len(latents)
        conditions = self.unet_conditions(latents, conditioning)
        # filled in on the device: diffusers would copy the number there, and a copy waits for all that is queued
        times = (
            torch.full((1,), timestep, dtype=torch.int32, device=latents.device)
            if isinstance(timestep, int)
            else timestep
        )
        out = (self.unet if unet is None else unet)(
            latents.to(self._unet_dtype), times, **conditions, return_dict=False
        )[0].to(dtype or latents.dtype)
        if self.schedule.prediction_type == "v_prediction":
            schedule = self.schedule
            at = schedule.alpha_prod(timestep) if isinstance(timestep, int) else schedule.alpha_prods(timestep)
            return noise_from_velocity(latents, out, at)
        return out

    def unet_conditions(self, latents: torch.Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """What the UNet takes besides latents [B, C, h, w] and time."""
        dtype = self._unet_dtype
        return {
            "encoder_hidden_states": conditioning.prompt_embeds.to(dtype),
            "added_cond_kwargs": added_conditions(conditioning, latents, self.vae_scale_factor, dtype),
        }
