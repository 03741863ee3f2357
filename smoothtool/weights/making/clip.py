"""Train the tiny CLIP of `stickers`: its text tower is the frozen text encoder, both towers give the CLIP score."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from smoothtool.weights.making.icons import CONCEPTS, STYLES
from smoothtool.weights.making.loop import Run
from smoothtool.weights.making.pool import draw_pool, held_out_pixel_values, pool_caption, pool_scene, to_pixel_values
from smoothtool.weights.making.scenes import COLOURS, caption, sample_scene

BATCH, POOL, MAX_TOKENS = 96, 24_000, 32


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """A byte-level BPE learnt from captions, in CLIP's files: every word of the world is one token, any text works."""
    rng = Random(0)
    corpus = [caption(sample_scene(rng), rng) for _ in range(20_000)]
    tokenizer = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(_regex(split), "removed", invert=True), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    tokenizer.decoder = decoders.BPEDecoder("</w>")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2_000, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False, special_tokens=[]
    )
    tokenizer.train_from_iterator(corpus, trainer)
    learnt = json.loads(tokenizer.to_str())["model"]
    tokens = list(alphabet) + [f"{letter}</w>" for letter in alphabet]
    tokens += [t for t in sorted(learnt["vocab"], key=learnt["vocab"].get) if t not in set(tokens)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({t: i for i, t in enumerate(tokens)}, ensure_ascii=False))
    merges = [m if isinstance(m, str) else " ".join(m) for m in learnt["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_TOKENS, "bos_token": "<|startoftext|>",
                "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    return CLIPTokenizer.from_pretrained(folder)


def _regex(pattern: str):  # noqa: ANN202 (tokenizers has no public type for it)
    from tokenizers import Regex

    return Regex(pattern)


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    text = {"vocab_size": len(tokenizer), "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 3,
            "num_attention_heads": 4, "max_position_embeddings": MAX_TOKENS, "projection_dim": 128,
            "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
    vision = {"hidden_size": 160, "intermediate_size": 480, "num_hidden_layers": 4, "num_attention_heads": 4,
              "image_size": 64, "patch_size": 8, "projection_dim": 128}  # fmt: skip
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    out = tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    return out.input_ids


@torch.no_grad()
def first_choices(model: CLIPModel, tokenizer: CLIPTokenizer, pixel_values: torch.Tensor, texts: list[str]) -> list[int]:
    """For each picture the index of the text that CLIP likes best."""
    image = model.get_image_features(pixel_values=pixel_values)
    text = model.get_text_features(input_ids=tokenize(tokenizer, texts))
    image, text = (getattr(x, "pooler_output", x) for x in (image, text))
    return (F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T).argmax(dim=1).tolist()


def train_clip(work: Path, steps: int, *, rate: float = 1e-3) -> None:
    """Contrastive training to `work/clip.pt` with the tokenizer in `work/tokenizer`."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(work / "tokenizer")
    model = build_clip(tokenizer)
    pictures = draw_pool(work, POOL)
    run = Run("clip", model, work, rate=rate, steps=steps, weight_decay=0.05)
    scenes = [s for s in (pool_scene(i, held_out=True) for i in range(400)) if len(s.items) == 1][:200]
    unseen = held_out_pixel_values(work, 400)[[i for i in range(400) if len(pool_scene(i, held_out=True).items) == 1][:200]]

    def loss_of(step: int) -> dict[str, torch.Tensor]:
        rng = np.random.default_rng([2, step])
        indices = np.sort(rng.choice(len(pictures), size=BATCH, replace=False))
        x = to_pixel_values(pictures[indices])
        x = x + 0.05 * torch.randn_like(x) * torch.rand(BATCH, 1, 1, 1)
        texts = [pool_caption(int(i), step) for i in indices]
        out = model(input_ids=tokenize(tokenizer, texts), pixel_values=x)
        truth = torch.arange(BATCH)
        logits = out.logits_per_image
        return {"loss": (F.cross_entropy(logits, truth) + F.cross_entropy(logits.T, truth)) / 2}

    def measure() -> dict[str, float]:
        model.eval()
        figures = {}
        for name, words, right in (
            ("concept", list(CONCEPTS), [s.items[0].concept for s in scenes]),
            ("style", list(STYLES), [s.style for s in scenes]),
            ("colour", list(COLOURS), [s.colour for s in scenes]),
        ):
            texts = [f"a {w}" if name == "concept" else f"a {w} sticker" if name == "style" else f"a {w} background" for w in words]
            choice = first_choices(model, tokenizer, unseen, texts)
            figures[name] = sum(words[c] == r for c, r in zip(choice, right)) / len(right)
        model.train()
        return figures

    run.train(loss_of, measure=measure)
