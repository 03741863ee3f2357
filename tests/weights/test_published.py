"""Which files of a repository are wanted, from their names."""

from __future__ import annotations

import pytest

from smoothtool.errors import ModelError
from smoothtool.weights.published import choose_variant, is_complete, variant_of, wanted_files

UNET, TEXT = "diffusion_pytorch_model", "model"
SMALL = ["model_index.json", "scheduler/scheduler_config.json", "tokenizer/merges.txt", "tokenizer/vocab.json"]
CONFIGS = [f"{part}/config.json" for part in ("text_encoder", "unet", "vae")]
OTHERS = [
    "README.md",
    "v1-5.safetensors",
    "safety_checker/model.safetensors",
    "unet/flax_model.msgpack",
    "vae_1_0/a.json",
]


def repository(*variants: str) -> list[str]:
    """A model with one encoder, with the weights of every part in these variants; "" is the plain one."""
    dotted = [f".{variant}" if variant else "" for variant in variants]
    parts = {"unet": UNET, "vae": UNET, "text_encoder": TEXT}
    weights = [f"{part}/{stem}{dot}.safetensors" for part, stem in parts.items() for dot in dotted]
    return [*SMALL, *CONFIGS, *OTHERS, *weights]


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("model.safetensors", ""),
        ("diffusion_pytorch_model.safetensors", ""),
        ("diffusion_pytorch_model.fp16.safetensors", "fp16"),
        ("diffusion_pytorch_model.non_ema.safetensors", "non_ema"),
        ("diffusion_pytorch_model-00001-of-00002.safetensors", ""),
        ("diffusion_pytorch_model.fp16-00001-of-00002.safetensors", "fp16"),
        ("diffusion_pytorch_model-00001-of-00002.fp16.safetensors", "fp16"),
        ("diffusion_pytorch_model.safetensors.index.json", ""),
        ("diffusion_pytorch_model.fp16.safetensors.index.json", "fp16"),
        ("diffusion_pytorch_model.safetensors.index.fp16.json", "fp16"),
        ("diffusion_pytorch_model.bin", None),
        ("openvino_model.safetensors", None),
        ("config.json", None),
    ],
)
def test_the_variant_stands_in_the_name(name: str, variant: str | None) -> None:
    assert variant_of(name) == variant


def test_plain_weights_come_first_unless_a_variant_is_asked_for() -> None:
    both = [f"{UNET}.safetensors", f"{UNET}.fp16.safetensors", f"{UNET}.non_ema.safetensors"]
    assert choose_variant(both) == ""
    assert choose_variant(both, "fp16") == "fp16"
    assert choose_variant(both[1:]) == "fp16"
    assert choose_variant(both[2:], "fp16") == "non_ema"
    assert choose_variant(["config.json"]) is None


def test_pieces_count_only_together_with_all_others_and_their_index() -> None:
    pieces = [f"{UNET}-0000{number}-of-00002.safetensors" for number in (1, 2)]
    index = f"{UNET}.safetensors.index.json"
    assert choose_variant([*pieces, index]) == ""
    assert choose_variant([pieces[0], index]) is None
    assert choose_variant(pieces) is None
    assert choose_variant([pieces[0], index, f"{UNET}.fp16.safetensors"]) == "fp16"


def test_of_a_repository_the_small_files_and_one_variant_of_each_part_are_wanted() -> None:
    needed = sorted([*SMALL, *CONFIGS])
    plain = [f"text_encoder/{TEXT}.safetensors", f"unet/{UNET}.safetensors", f"vae/{UNET}.safetensors"]
    half = [name.replace(".safetensors", ".fp16.safetensors") for name in plain]
    assert wanted_files("mine", repository("", "fp16")) == sorted([*needed, *plain])
    assert wanted_files("mine", repository("", "fp16"), "fp16") == sorted([*needed, *half])
    assert wanted_files("mine", repository("fp16")) == sorted([*needed, *half])


def test_parts_without_the_variant_take_their_plain_weights() -> None:
    files = [*repository(""), f"unet/{UNET}.fp16.safetensors"]
    found = wanted_files("mine", files, "fp16")
    assert f"unet/{UNET}.fp16.safetensors" in found
    assert f"unet/{UNET}.safetensors" not in found
    assert f"vae/{UNET}.safetensors" in found


def test_one_whole_file_is_enough_where_there_are_pieces_too() -> None:
    pieces = [f"unet/{UNET}-00001-of-00001.safetensors", f"unet/{UNET}.safetensors.index.json"]
    assert not set(pieces) & set(wanted_files("mine", [*repository(""), *pieces]))


def test_what_a_repository_has_not_is_a_sentence() -> None:
    with pytest.raises(ModelError, match="there is no variant bf16") as caught:
        wanted_files("mine", repository("fp16"), "bf16")
    assert caught.value.hint == "fp16"
    pickled = [name for name in repository("") if not name.startswith("unet/diff")]
    with pytest.raises(ModelError, match="the UNet has its weights as a pickle alone"):
        wanted_files("mine", [*pickled, f"unet/{UNET}.bin"])
    with pytest.raises(ModelError, match="the UNet has no weights"):
        wanted_files("mine", pickled)


def test_a_download_that_was_cut_short_is_not_complete() -> None:
    whole = repository("fp16")
    assert is_complete(whole)
    assert is_complete(whole, "fp16")
    assert not is_complete(whole, "bf16")
    assert not is_complete([name for name in whole if not name.startswith("vae/diff")])
    assert not is_complete(["model_index.json"])
