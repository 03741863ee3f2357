"""Model folders: a part that is damaged, incomplete or of another model is named, and nothing is filled in."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from batch_toys import saved_tiny_model
from safetensors.torch import load_file, save_file
from toys import tiny_tokenizer

from smoothtool.diffusion.loading import load_model
from smoothtool.diffusion.parts import has_bare_names
from smoothtool.errors import ModelError

WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_tiny_model(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as refused:
        load_model(folder, "tiny", device="cpu")
    assert "\n" not in refused.value.what
    assert refused.value.hint
    return refused.value.what


def change_weights(path: Path, change: Callable[[dict[str, torch.Tensor], str], object]) -> str:
    """The key that was chosen for the change."""
    weights = load_file(path)
    key = sorted(weights)[len(weights) // 2]
    change(weights, key)
    save_file(weights, path, metadata={"format": "pt"})
    return key.removeprefix("text_model.")


@pytest.mark.parametrize("part", WEIGHTS)
def test_a_missing_key_is_named_and_not_filled_with_random_weights(folder: Path, part: str) -> None:
    key = change_weights(folder / part / WEIGHTS[part], lambda weights, key: weights.pop(key))
    assert re.search(rf"{part}: the weights lack (text_model\.)?{re.escape(key)}", refusal(folder))


def test_a_text_encoder_is_read_under_both_of_its_namings(folder: Path) -> None:
    """transformers begins its keys by text_model. before 5.6, and no longer since."""
    path, model = folder / "text_encoder" / WEIGHTS["text_encoder"], load_model(folder, "tiny")
    bare = {key.removeprefix("text_model."): value.clone() for key, value in load_file(path).items()}
    before = model.encode_prompts(["a cake"]).prompt_embeds
    for prefix in ("", "text_model."):
        save_file({f"{prefix}{key}": value for key, value in bare.items()}, path, metadata={"format": "pt"})
        assert torch.equal(load_model(folder, "tiny").encode_prompts(["a cake"]).prompt_embeds, before)


def test_keys_that_lack_their_first_level_are_told_from_keys_that_are_missing() -> None:
    assert has_bare_names({"text_model.a", "text_model.b"}, {"a", "b"})
    assert not has_bare_names({"text_model.a", "text_model.b"}, {"a"})
    assert not has_bare_names({"a"}, {"text_model.a"})
    assert not has_bare_names(set(), set())


@pytest.mark.parametrize("part", WEIGHTS)
def test_a_key_of_another_shape_is_named(folder: Path, part: str) -> None:
    key = change_weights(folder / part / WEIGHTS[part], lambda weights, key: weights.update({key: torch.zeros(3, 5)}))
    assert f"{key} has the shape [3, 5], and the config asks for" in refusal(folder)


@pytest.mark.parametrize("part", WEIGHTS)
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "cut short"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer"),
        (lambda path: path.write_bytes(b"PK\x03\x04" + bytes(99)), "is a pickle"),
        (lambda path: (path.unlink(), os.mkfifo(path)), "is a pipe"),
        (lambda path: path.rename(path.with_name("pytorch_model.bin")), "a pickle alone (pytorch_model.bin)"),
        (lambda path: path.unlink(), "has no weights"),
        (lambda path: shutil.rmtree(path.parent), "(no folder "),
    ],
    ids=["empty", "cut", "lfs", "pickle inside", "pipe", "pickle", "none", "no folder"],
)
def test_weights_that_cannot_be_read_are_named(
    folder: Path, part: str, damage: Callable[[Path], object], words: str
) -> None:
    damage(folder / part / WEIGHTS[part])
    found = refusal(folder)
    assert words in found
    assert part in found


def changed(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("unet", {"layers_per_block": 10**9}),
        ("unet", {"block_out_channels": [10**9, 1, 1]}),
        ("unet", {"block_out_channels": [8] * 100}),
        ("unet", {"attention_head_dim": 0}),
        ("unet", {"attention_head_dim": "x"}),
        ("unet", {"in_channels": None}),
        ("unet", {"in_channels": 9}),
        ("unet", {"down_block_types": ["NoSuchBlock"] * 3}),
        ("unet", {"down_block_types": 3}),
        ("unet", {"norm_num_groups": 0}),
        ("unet", {"cross_attention_dim": {}}),
        ("unet", {"act_fn": 3}),
        ("vae", {"block_out_channels": []}),
        ("vae", {"latent_channels": 16}),
        ("vae", {"latent_channels": -1}),
        ("text_encoder", {"num_hidden_layers": 10**8}),
        ("text_encoder", {"vocab_size": 10**12}),
        ("text_encoder", {"hidden_size": 2.5}),
        ("text_encoder", {"num_attention_heads": 7}),
        ("text_encoder", {"hidden_act": "no such act"}),
        ("text_encoder", {"num_hidden_layers": 3}),
        ("text_encoder", {"num_hidden_layers": 0}),
        ("text_encoder", {"num_hidden_layers": 1}),
        ("text_encoder", {"eos_token_id": None}),
        ("text_encoder", {"eos_token_id": 10**6}),
        ("text_encoder", {"attention_dropout": 2}),
        ("unet", {"sample_size": 0}),
        ("unet", {"dropout": float("nan")}),
        ("unet", {"layers_per_block": 0}),
        ("vae", {"scaling_factor": 0}),
        ("vae", {"scaling_factor": None}),
        ("vae", {"scaling_factor": "x"}),
        ("vae", {"scaling_factor": float("nan")}),
        ("tokenizer", {"model_max_length": "x"}),
        ("tokenizer", {"model_max_length": 2}),
        ("tokenizer", {"model_max_length": -1}),
        ("scheduler", {"num_train_timesteps": 10**12}),
        ("scheduler", {"num_train_timesteps": 0}),
        ("scheduler", {"beta_end": "x"}),
        ("scheduler", {"beta_end": None, "beta_start": 7}),
        ("scheduler", {"beta_schedule": "sigmoid of my own"}),
        ("scheduler", {"prediction_type": 3}),
        ("scheduler", {"prediction_type": "flow"}),
        ("scheduler", {"trained_betas": [0.1, "x"]}),
        ("scheduler", {"trained_betas": [0.1, 0.2]}),
        ("scheduler", {"timestep_spacing": "odd"}),
        ("scheduler", {"steps_offset": 10**9}),
        ("scheduler", {"set_alpha_to_one": "no"}),
        ("scheduler", {"_class_name": "FlowMatchEulerDiscreteScheduler"}),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_meant_is_refused_in_a_sentence(
    folder: Path, part: str, values: dict[str, Any]
) -> None:
    names = {"scheduler": "scheduler_config.json", "tokenizer": "tokenizer_config.json"}
    changed(folder / part / names.get(part, "config.json"), **values)
    said = refusal(folder)
    assert re.search(r"( object |by zero|'\w+'$|instances|:$)", said.replace("an object", "")) is None, said


@pytest.mark.parametrize("sides", [None, [8, 8], [4, 8]])
def test_a_native_size_may_be_two_numbers_or_none(folder: Path, sides: list[int] | None) -> None:
    changed(folder / "unet" / "config.json", sample_size=sides)
    model = load_model(folder, "tiny", device="cpu")
    assert model.native_size_px == (64 if sides is None else 8) * model.vae_scale_factor


@pytest.mark.parametrize("part", WEIGHTS)
def test_quantised_weights_are_not_read_as_floats(folder: Path, part: str) -> None:
    key = change_weights(
        folder / part / WEIGHTS[part],
        lambda weights, key: weights.update({key: torch.ones(3).to(torch.int8)}),
    )
    assert re.search(rf"{re.escape(key)} holds I8, not weights", refusal(folder))


def test_weights_that_are_not_finite_are_named_when_no_picture_comes_out(folder: Path) -> None:
    key = change_weights(folder / "vae" / WEIGHTS["vae"], lambda weights, key: weights[key].fill_(float("nan")))
    model = load_model(folder, "tiny", device="cpu")
    with pytest.raises(ModelError, match=rf"the weights of vae are not finite \({re.escape(key)}\)"):
        model.decode_latents(torch.zeros(1, 4, 8, 8))


@pytest.mark.parametrize(
    "content", [{}, [1], {"weight_map": [1]}, {"weight_map": {"a": 3}}, {"weight_map": {"a": "../x"}}]
)
def test_a_list_of_pieces_of_another_form_is_refused_in_a_sentence(folder: Path, content: Any) -> None:
    weights = folder / "unet" / WEIGHTS["unet"]
    weights.rename(weights.with_name("diffusion_pytorch_model-00001-of-00001.safetensors"))
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(content))
    assert re.search(r"(object|'\w+'$|instances)", refusal(folder).replace("a JSON object", "")) is None


@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"3", b"{", b'{"a":' * 5000, b"\xff\xfe{"])
def test_damaged_json_is_refused_in_a_sentence(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    refusal(folder)


@pytest.mark.parametrize("index", [{"unet": None}, {"unet": 3}, {"unet": ["a"]}, {"_class_name": 3, "unet": {}}, {}])
def test_an_index_of_another_form_is_refused_in_a_sentence(folder: Path, index: dict[str, Any]) -> None:
    (folder / "model_index.json").write_text(json.dumps(index))
    assert "cannot be used" in refusal(folder)


def test_configs_in_utf16_are_read_by_their_mark(folder: Path) -> None:
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_bytes(path.read_text().encode("utf-16"))
    load_model(folder, "tiny", device="cpu")


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_tokenizer_that_is_missing_or_damaged_is_refused(folder: Path, name: str) -> None:
    for path in (folder / "tokenizer").iterdir():
        if path.name == "tokenizer.json":
            path.unlink()
    path = folder / "tokenizer" / name
    path.write_bytes(b"\xff\xfe\0 damaged {")
    assert "tokenizer" in refusal(folder)
    path.unlink()
    assert "has no tokenizer" in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"#version: 0.2\n\n"])
def test_a_tokenizer_without_merges_is_refused(folder: Path, content: bytes) -> None:
    (folder / "tokenizer" / "tokenizer.json").unlink()
    tiny_tokenizer(folder / "tokenizer")
    (folder / "tokenizer" / "merges.txt").write_bytes(content)
    assert "merges.txt holds no merges" in refusal(folder)


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    config = folder / "text_encoder" / "config.json"
    rows = json.loads(config.read_text())["vocab_size"] - 5
    changed(config, vocab_size=rows, bos_token_id=0, eos_token_id=1)
    path = folder / "text_encoder" / WEIGHTS["text_encoder"]
    weights = load_file(path)
    key = next(key for key in weights if key.endswith("token_embedding.weight"))
    save_file({**weights, key: weights[key][:rows].contiguous()}, path, metadata={"format": "pt"})
    assert "words, the text encoder knows" in refusal(folder)


def test_a_tokenizer_without_a_length_takes_the_text_encoders(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer_config.json").write_text("{}")
    model = load_model(folder, "tiny", device="cpu")
    assert model.encode_prompts(["a cat"]).prompt_embeds.shape[1] == 16
