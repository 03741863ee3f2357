"""The tiny CLIP goes on from a model folder's, around another text encoder."""

from __future__ import annotations

import torch
from transformers import CLIPModel

from smoothtool.stickers.making.clip import new_clip
from smoothtool.stickers.making.pack import FOLDER
from smoothtool.stickers.making.tokenizer import load_tokenizer
from smoothtool.stickers.making.unet import build_text_encoder


def test_only_the_text_tower_is_new() -> None:
    torch.manual_seed(0)
    text_encoder = build_text_encoder(load_tokenizer(FOLDER))
    model, shipped = new_clip(text_encoder, FOLDER), CLIPModel.from_pretrained(FOLDER / "clip", dtype=torch.float32)
    known = shipped.state_dict()
    for name, value in model.state_dict().items():
        expected = text_encoder.state_dict()[name.removeprefix("text_model.")] if "text_model" in name else known[name]
        assert torch.equal(value, expected), name
    assert not any(p.requires_grad for p in model.text_model.parameters())
