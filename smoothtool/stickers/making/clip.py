"""Train the tiny CLIP of `stickers`: its text tower is the frozen text encoder, both towers give the CLIP score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTextModel, CLIPTokenizer

from smoothtool.stickers.making.latents import judged_batch
from smoothtool.stickers.making.loop import Run
from smoothtool.stickers.making.tokenizer import load_tokenizer, tokenize
from smoothtool.stickers.making.unet import trained_text_encoder
from smoothtool.stickers.world.icons import CONCEPTS, STYLES
from smoothtool.stickers.world.pool import held_out_pixel_values, pool_caption, pool_scene
from smoothtool.stickers.world.scenes import COLOURS, Scene

BATCH = 64
WORDS = {"concept": tuple(CONCEPTS), "style": STYLES, "colour": tuple(COLOURS)}
TEMPLATES = {"concept": "a {}", "style": "a {} sticker", "colour": "a {} background"}


def build_clip(text_encoder: CLIPTextModel) -> CLIPModel:
    """A CLIP around the text encoder of the diffusion model, which stays as it is: the picture tower learns to meet it.

    As in LiT (Zhai et al. 2022, arXiv:2111.07991), with text instead of pictures locked.
    """
    vision = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 8,
        "projection_dim": 128,
    }
    model = CLIPModel(CLIPConfig(text_config=text_encoder.config.to_dict(), vision_config=vision, projection_dim=128))
    model.text_model.load_state_dict(text_encoder.state_dict())
    model.text_model.requires_grad_(False)
    return model


def _word_loss(model: CLIPModel, tokenizer: CLIPTokenizer, image: torch.Tensor, scenes: list[Scene]) -> torch.Tensor:
    """Cross-entropy of every concept, style and colour against all others of its kind, in few words.

    Captions of other pictures in the batch differ in many things at once; here one thing alone is to be told.
    image: unit features [B, D] of `scenes`.
    """
    losses = []
    for name, words in WORDS.items():
        text = _features(model.get_text_features(input_ids=tokenize(tokenizer, _texts(name))))
        target = torch.zeros(len(scenes), len(words))
        for row, scene in enumerate(scenes):
            for word in [item.concept for item in scene.items] if name == "concept" else [getattr(scene, name)]:
                target[row, words.index(word)] = 1
        logits = model.logit_scale.exp() * image @ text.T
        losses.append(F.cross_entropy(logits, target / target.sum(dim=1, keepdim=True)))
    return torch.stack(losses).mean()


def _texts(name: str) -> list[str]:
    return [TEMPLATES[name].format(word) for word in WORDS[name]]


def _features(output: Any) -> torch.Tensor:
    """Unit features [B, D], whatever kind of record the installed transformers gives."""
    return F.normalize(getattr(output, "pooler_output", output), dim=-1)


@torch.no_grad()
def first_choices(
    model: CLIPModel, tokenizer: CLIPTokenizer, pixel_values: torch.Tensor, texts: list[str]
) -> list[int]:
    """For each picture the index of the text that CLIP likes best."""
    image = _features(model.get_image_features(pixel_values=pixel_values))
    text = _features(model.get_text_features(input_ids=tokenize(tokenizer, texts)))
    return (image @ text.T).argmax(dim=1).tolist()


def new_clip(text_encoder: CLIPTextModel, start: Path | None = None) -> CLIPModel:
    """Around the text encoder, with the rest of a model folder's CLIP where one is given."""
    model = build_clip(text_encoder)
    if start is not None:
        known = CLIPModel.from_pretrained(start / "clip", dtype=torch.float32).state_dict()
        model.load_state_dict(
            {name: value for name, value in known.items() if not name.startswith("text_model.")}, strict=False
        )
    return model


def train_clip(work: Path, steps: int, *, start: Path | None = None, rate: float = 1e-3) -> None:
    """Contrastive training to `work/clip.pt`; the UNet's text encoder must be frozen by then.

    start: a model folder whose CLIP to begin from where there is no checkpoint.
    """
    torch.manual_seed(0)
    tokenizer = load_tokenizer(work)
    model = new_clip(trained_text_encoder(work, tokenizer), start)
    run = Run("clip", model, work, rate=rate, steps=steps, weight_decay=0.05)
    single = [index for index in range(400) if len(pool_scene(index, held_out=True).items) == 1]
    scenes, unseen = [pool_scene(index, held_out=True) for index in single], held_out_pixel_values(work, 400)[single]

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        indices, x = judged_batch(work, np.random.default_rng([2, step]), BATCH)
        x = x + 0.05 * torch.randn_like(x) * torch.rand(BATCH, 1, 1, 1)
        texts = [pool_caption(int(index), step) for index in indices]
        out = model(input_ids=tokenize(tokenizer, texts), pixel_values=x)
        truth = torch.arange(BATCH)
        losses = [F.cross_entropy(logits, truth) for logits in (out.logits_per_image, out.logits_per_image.T)]
        words = _word_loss(model, tokenizer, out.image_embeds, [pool_scene(int(index)) for index in indices])
        return {"loss": sum(losses) / 2 + words, "words": words}

    def measure() -> dict[str, float]:
        model.eval()
        figures = clip_accuracy(model, tokenizer, unseen, scenes)
        model.train()
        return figures

    run.train(loss_of, measure=measure)


def clip_accuracy(
    model: CLIPModel, tokenizer: CLIPTokenizer, pixel_values: torch.Tensor, scenes: list[Scene]
) -> dict[str, float]:
    """How often the right concept, style and colour are CLIP's first choice, on scenes of one item."""
    figures = {}
    for name, words in WORDS.items():
        choices = first_choices(model, tokenizer, pixel_values, _texts(name))
        truth = [scene.items[0].concept if name == "concept" else getattr(scene, name) for scene in scenes]
        figures[name] = sum(words[at] == right for at, right in zip(choices, truth, strict=True)) / len(truth)
    return figures
