"""The tokenizer of `stickers`: a byte-level BPE learnt from captions, in CLIP's own files."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import torch
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from smoothtool.files.storage.writing import write_text_atomic
from smoothtool.stickers.world.scenes import caption, sample_scene

MAX_TOKENS, CORPUS = 32, 20_000
CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def load_tokenizer(work: Path) -> CLIPTokenizer:
    """The tokenizer in `work/tokenizer`, learnt on first use: every word of the world is one token, any text works."""
    folder = work / "tokenizer"
    if not (folder / "tokenizer_config.json").exists():
        _learn(folder)
    return CLIPTokenizer.from_pretrained(folder)


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """Token ids [B, 32]."""
    out = tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    return out.input_ids


def _learn(folder: Path) -> None:
    rng = Random(0)
    corpus = [caption(sample_scene(rng), rng) for _ in range(CORPUS)]
    tokenizer = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    words = pre_tokenizers.Split(Regex(CLIP_WORDS), "removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(False, use_regex=False)])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=2_000, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False, special_tokens=[]
    )
    tokenizer.train_from_iterator(corpus, trainer)
    learnt = json.loads(tokenizer.to_str())["model"]
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    tokens += [token for token in sorted(learnt["vocab"], key=learnt["vocab"].get) if token not in set(tokens)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in learnt["merges"]]
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": MAX_TOKENS,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_text_atomic(folder / "vocab.json", json.dumps({t: i for i, t in enumerate(tokens)}, ensure_ascii=False))
    write_text_atomic(folder / "merges.txt", "\n".join(["#version: 0.2", *merges]) + "\n")
    write_text_atomic(folder / "tokenizer_config.json", json.dumps(settings, indent=2))
