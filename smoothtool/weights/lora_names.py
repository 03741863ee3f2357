"""How the tensors of LoRA files are named, in every dialect, and what the names and shapes alone say."""

from __future__ import annotations

import re
from collections.abc import Iterator

from smoothtool.readers.tensors import TensorsHeader

ADAPTER_METADATA = "lora_adapter_metadata"
"""Key in the header of diffusers' LoRA files, of the settings of the adapter as JSON."""
ENDINGS = {
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_linear_layer.up.weight": "up",
    ".lora_down.weight": "down",
    ".lora_up.weight": "up",
    ".lora_mid.weight": "mid",
    ".down.weight": "down",
    ".up.weight": "up",
    ".alpha": "alpha",
    **{
        f".{role}": role
        for role in (
            "hada_w1_a",
            "hada_w1_b",
            "hada_w2_a",
            "hada_w2_b",
            "hada_t1",
            "hada_t2",
            "lokr_w1",
            "lokr_w1_a",
            "lokr_w1_b",
            "lokr_w2",
            "lokr_w2_a",
            "lokr_w2_b",
            "lokr_t2",
            "diff",
        )
    },
    ".dora_scale": "dora_scale",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
}
"""How the name of a tensor ends, and what it is to its layer."""
RANKED = ("mid", "down", "hada_w1_b", "lokr_w2_b", "lokr_w1_b")
"""Pieces with the rank in front, the first one that a layer has."""
_CROSS = re.compile(r"attn2[._]to_[kv]|attn2[._]processor[._]to_[kv]")
_SECOND_ENCODER = re.compile(r"lora_te2_|text_encoder_2\.")
_DIALECTS = (
    ("bare attention processors", re.compile(r"\.processor\.to_\w+_lora\.")),
    ("peft", re.compile(r"^base_model\.model\.")),
    ("kohya", re.compile(r"^lora_(unet|te\d?)_")),
    ("LyCORIS", re.compile(r"^lycoris_")),
    ("ComfyUI", re.compile(r"^diffusion_model\.")),
    ("diffusers", re.compile(r"^(unet|text_encoder(_2)?)\.")),
)


def split_key(key: str) -> tuple[str, str]:
    """Key -> (stem, role); the role is empty when the ending means nothing here."""
    for mark, role in ((".lora_A.", "down"), (".lora_B.", "up")):
        stem, dot, rest = key.partition(mark)  # the rest is `weight`, or `ADAPTER.weight`
        if dot and rest.split(".")[-1] == "weight":
            return stem, role
    for ending, role in ENDINGS.items():
        if key.endswith(ending):
            return key.removesuffix(ending), role
    return key, ""


def text_widths(header: TensorsHeader) -> Iterator[int]:
    """How wide the text is that the adapted layers of cross-attention take, layer by layer."""
    for key, facts in header.tensors.items():
        if _CROSS.search(key) and split_key(key)[1] in ("down", "hada_w1_b") and len(facts.shape) > 1:
            yield facts.shape[1]


def has_second_encoder(header: TensorsHeader) -> bool:
    """Whether it changes a second text encoder, which Stable Diffusion XL alone has."""
    return any(_SECOND_ENCODER.search(key) for key in header.tensors)


def dialect_of(header: TensorsHeader) -> str:
    """Whose way of naming the keys are written in, or an empty string."""
    return next((name for name, mark in _DIALECTS if any(map(mark.search, header.tensors))), "")


def ranks_of(header: TensorsHeader) -> dict[str, int]:
    """The rank of every layer, by the stem that the file has for it; 0 for changes of full rank."""
    found: dict[str, dict[str, int]] = {}
    for key, facts in header.tensors.items():
        stem, role = split_key(key)
        if role:
            found.setdefault(stem, {})[role] = facts.shape[0] if facts.shape else 0
    return {stem: next((roles[role] for role in RANKED if role in roles), 0) for stem, roles in found.items()}
