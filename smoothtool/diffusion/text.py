"""From words to what the UNet is given: one CLIP text encoder (Stable Diffusion 1.x and 2.x), or two (XL).

This is one of the two places where the families differ; the other is `added_conditions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from smoothtool.types import Conditioning


class PromptEncoder(Protocol):
    """The text side of a model."""

    @property
    def encoders(self) -> dict[str, nn.Module]:
        """The text encoders, by the name of their folder in a diffusers model."""

    @property
    def tokenizers(self) -> dict[str, CLIPTokenizer]:
        """Their tokenizers, in the same order. The first one says which token belongs to which word."""

    @property
    def pipeline(self) -> str:
        """The class that diffusers gives models of the family."""

    @property
    def settings(self) -> dict[str, Any]:
        """What model_index.json says of the text side besides its parts."""

    def encode(self, prompt: str, device: torch.device) -> Conditioning:
        """One row; what goes beyond the token limit is cut."""

    def null(self, device: torch.device) -> Conditioning:
        """One row: what the null half of guidance is given where there is no negative prompt."""


@dataclass(frozen=True)
class OneEncoder:
    """Stable Diffusion 1.x and 2.x: the last hidden states, after the final norm, [1, L, D]."""

    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    pipeline = "StableDiffusionPipeline"

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    @property
    def encoders(self) -> dict[str, nn.Module]:
        return {"text_encoder": self.text_encoder}

    @property
    def tokenizers(self) -> dict[str, CLIPTokenizer]:
        return {"tokenizer": self.tokenizer}

    def encode(self, prompt: str, device: torch.device) -> Conditioning:
        """`prompt_embeds` [1, L, D] alone."""
        return Conditioning(self.text_encoder(_token_ids(self.tokenizer, prompt, device))[0].float())

    def null(self, device: torch.device) -> Conditioning:
        """The empty prompt, encoded."""
        return self.encode("", device)


@dataclass(frozen=True)
class TwoEncoders:
    """Stable Diffusion XL (Podell et al. 2023, arXiv:2307.01952, section 2.1).

    The last but one hidden states of both encoders, without a final norm, side by side per token, [1, L, D1 + D2]; and
    the second encoder's projected output of the end token, [1, P].

    zeros_for_null  the null half is given zeros in both parts, as SDXL was trained; else the empty prompt
    """

    text_encoder: CLIPTextModel
    text_encoder_2: CLIPTextModelWithProjection
    tokenizer: CLIPTokenizer
    tokenizer_2: CLIPTokenizer
    zeros_for_null: bool
    pipeline = "StableDiffusionXLPipeline"

    @property
    def settings(self) -> dict[str, Any]:
        return {"force_zeros_for_empty_prompt": self.zeros_for_null}

    @property
    def encoders(self) -> dict[str, nn.Module]:
        return {"text_encoder": self.text_encoder, "text_encoder_2": self.text_encoder_2}

    @property
    def tokenizers(self) -> dict[str, CLIPTokenizer]:
        return {"tokenizer": self.tokenizer, "tokenizer_2": self.tokenizer_2}

    def encode(self, prompt: str, device: torch.device) -> Conditioning:
        """`prompt_embeds` [1, L, D1 + D2] and `pooled_prompt_embeds` [1, P]."""
        first = self._hidden(self.text_encoder, self.tokenizer, prompt, device)
        second = self._hidden(self.text_encoder_2, self.tokenizer_2, prompt, device)
        embeds = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        return Conditioning(embeds.float(), second.text_embeds.float())

    def null(self, device: torch.device) -> Conditioning:
        """Zeros, or the empty prompt, encoded."""
        empty = self.encode("", device)
        return empty.map(torch.zeros_like) if self.zeros_for_null else empty

    @staticmethod
    def _hidden(encoder: nn.Module, tokenizer: CLIPTokenizer, prompt: str, device: torch.device) -> Any:
        return encoder(_token_ids(tokenizer, prompt, device), output_hidden_states=True)


def _token_ids(tokenizer: CLIPTokenizer, prompt: str, device: torch.device) -> torch.Tensor:
    """[1, L], filled up with the tokenizer's own padding, which may be another token in each."""
    limit = tokenizer.model_max_length
    tokens = tokenizer(prompt, padding="max_length", max_length=limit, truncation=True, return_tensors="pt")
    return tokens.input_ids.to(device)


def added_conditions(
    conditioning: Conditioning, latents: torch.Tensor, vae_scale_factor: int, dtype: torch.dtype
) -> dict[str, torch.Tensor] | None:
    """What Stable Diffusion XL's UNet takes beside the prompt's tokens; None for models that take no more.

    `text_embeds` [B, P] and `time_ids` [B, 6]: height and width of the original, top and left of its crop, height and
    width of the target, in pixels. Without ids of its own a row is a whole picture of the size that its latents have.
    """
    if conditioning.pooled_prompt_embeds is None:
        return None
    time_ids = conditioning.time_ids
    if time_ids is None:
        height, width = (side * vae_scale_factor for side in latents.shape[-2:])
        time_ids = latents.new_tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)
        time_ids = time_ids.expand(len(latents), -1)
    return {"text_embeds": conditioning.pooled_prompt_embeds.to(dtype), "time_ids": time_ids}
