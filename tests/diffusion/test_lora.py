"""LoRAs: every dialect says the same thing, nothing is loaded by halves, and the adapter invariants hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from toys import layer_of

from smoothtool.diffusion.lora import (
    add_trainable_lora,
    kohya_file,
    load_lora,
    lora_disabled,
    lora_file,
    lora_state,
    remove_lora,
    set_lora_scales,
    set_lora_state,
)
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import ModelError
from smoothtool.files.storage.tensors import write_tensors

Tensors = dict[str, torch.Tensor]
Pairs = dict[str, tuple[torch.Tensor, torch.Tensor]]

LAYERS = {
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": (8, 8),
    "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k": (16, 16),
    "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_out.0": (16, 16),
}
TEXT_LAYER, TEXT_SHAPE = "encoder.layers.0.self_attn.q_proj", (16, 16)
RANK, ALPHA = 3, 6.0


@pytest.fixture
def pairs() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(5)
    shapes = {**LAYERS, TEXT_LAYER: TEXT_SHAPE}
    return {name: (torch.randn(RANK, i), torch.randn(o, RANK)) for name, (o, i) in shapes.items()}


def predict(model: DiffusionModel, timestep: int = 500) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 16, 16, generator=generator)
    with torch.no_grad():
        return model.predict_noise(latents, timestep, model.encode_prompts(["a cat", "red cake"]))


def snapshot(model: DiffusionModel) -> Tensors:
    return {
        f"{part}.{key}": value.clone()
        for part in ("unet", "text_encoder")
        for key, value in model.parts[part].state_dict().items()
    }


def same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def merged(model: DiffusionModel, pairs: Pairs, factor: float = ALPHA / RANK) -> None:
    """The algebra: W + (alpha / r) up down, written into the weights."""
    for name, (down, up) in pairs.items():
        part = model.text.text_encoder if name == TEXT_LAYER else model.unet
        layer_of(part, name).weight.data += factor * up @ down


def diffusers_keys(pairs: Pairs) -> Tensors:
    return {
        f"{'text_encoder' if name == TEXT_LAYER else 'unet'}.{name}.lora_{letter}.weight": tensor
        for name, pair in pairs.items()
        for letter, tensor in zip("AB", pair, strict=True)
    }


def write(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, path, metadata=metadata)
    return path


def alpha_header() -> dict[str, str]:
    settings = {
        f"{part}.{key}": value
        for part in ("unet", "text_encoder")
        for key, value in (("r", RANK), ("lora_alpha", ALPHA))
    }
    return {"lora_adapter_metadata": json.dumps(settings)}


def write_diffusers(folder: Path, pairs: Pairs) -> Path:
    return write(folder / "new.safetensors", diffusers_keys(pairs), alpha_header())


def write_old_diffusers(folder: Path, pairs: Pairs) -> Path:
    tensors = {}
    for name, (down, up) in pairs.items():
        stem = f"text_encoder.text_model.{name}.lora_linear_layer" if name == TEXT_LAYER else f"unet.{name}.lora"
        tensors |= {f"{stem}.down.weight": down, f"{stem}.up.weight": up}
    return write(folder / "old.safetensors", tensors, alpha_header())


def write_peft(folder: Path, pairs: Pairs, adapter: str = "") -> Path:
    tensors = {}
    for key, tensor in diffusers_keys(pairs).items():
        key = key.replace("text_encoder.", "base_model.model.text_model.").replace("unet.", "base_model.model.")
        tensors[key.replace(".weight", f"{adapter}.weight")] = tensor
    (folder / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": ALPHA}))
    return write(folder / "adapter_model.safetensors", tensors)


def write_named_peft(folder: Path, pairs: Pairs) -> Path:
    return write_peft(folder, pairs, ".default")


def write_kohya(folder: Path, pairs: Pairs) -> Path:
    tensors = {}
    for name, (down, up) in pairs.items():
        stem = f"lora_te_text_model.{name}" if name == TEXT_LAYER else f"lora_unet_{name}"
        stem = stem.replace(".", "_")
        tensors |= {
            f"{stem}.lora_down.weight": down,
            f"{stem}.lora_up.weight": up,
            f"{stem}.alpha": torch.tensor(ALPHA),
        }
    return write(folder / "kohya.safetensors", tensors)


def write_processor(folder: Path, pairs: Pairs, prefix: str = "") -> Path:
    """The format of the published Smooth LoRA: no alpha (the pair is scaled instead), UNet only."""
    tensors = {}
    for name, (down, up) in pairs.items():
        if name != TEXT_LAYER:
            attention, projection = name.split(".to_")
            stem = f"{prefix}{attention}.processor.to_{projection.removesuffix('.0')}_lora"
            tensors |= {f"{stem}.down.weight": down, f"{stem}.up.weight": up * (ALPHA / RANK)}
    return write(folder / "processor.safetensors", tensors)


def test_a_loaded_lora_equals_weights_merged_by_hand(
    model: DiffusionModel, tmp_path: Path, pairs: dict[str, tuple[torch.Tensor, torch.Tensor]]
) -> None:
    load_lora(model, write_diffusers(tmp_path, pairs))
    loaded = predict(model)
    remove_lora(model, "lora_0")
    merged(model, pairs)
    model.forget_prompts()
    torch.testing.assert_close(loaded, predict(model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dialect", [write_old_diffusers, write_peft, write_named_peft, write_kohya])
def test_every_dialect_gives_the_same_noise_and_fingerprint(
    model: DiffusionModel,
    tmp_path: Path,
    pairs: dict[str, tuple[torch.Tensor, torch.Tensor]],
    dialect: Callable[[Path, Pairs], Path],
) -> None:
    first = load_lora(model, write_diffusers(tmp_path, pairs))
    expected = predict(model)
    remove_lora(model, "lora_0")
    again = load_lora(model, dialect(tmp_path, pairs))
    assert torch.equal(predict(model), expected)
    assert again["fingerprint"] == first["fingerprint"]


@pytest.mark.parametrize("prefix", ["", "unet."])
def test_bare_attention_processor_keys_load(
    model: DiffusionModel, tmp_path: Path, pairs: dict[str, tuple[torch.Tensor, torch.Tensor]], prefix: str
) -> None:
    unet_pairs = {name: pair for name, pair in pairs.items() if name != TEXT_LAYER}
    load_lora(model, write_processor(tmp_path, pairs, prefix))
    loaded = predict(model)
    remove_lora(model, "lora_0")
    merged(model, unet_pairs)
    torch.testing.assert_close(loaded, predict(model), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("spatial", [(), (1, 1)])
def test_one_by_one_convolutions_are_stored_with_or_without_their_ones(
    model: DiffusionModel, tmp_path: Path, spatial: tuple[int, ...]
) -> None:
    name, down, up = "mid_block.attentions.0.proj_in", torch.randn(2, 16), torch.randn(16, 2)
    stem = "lora_unet_" + name.replace(".", "_")
    load_lora(
        model,
        write(
            tmp_path / "conv.safetensors",
            {
                f"{stem}.lora_down.weight": down.reshape(2, 16, *spatial),
                f"{stem}.lora_up.weight": up.reshape(16, 2, *spatial),
            },
        ),
    )
    loaded = predict(model)
    remove_lora(model, "lora_0")
    weight = model.unet.get_submodule(name).weight
    weight.data += (up @ down).reshape(weight.shape)
    torch.testing.assert_close(loaded, predict(model), atol=1e-5, rtol=1e-5)


def test_ranks_and_alphas_may_differ_between_layers(
    model: DiffusionModel, tmp_path: Path, pairs: dict[str, tuple[torch.Tensor, torch.Tensor]]
) -> None:
    tensors = load_file(write_kohya(tmp_path, pairs))
    key = next(key for key in tensors if key.startswith("lora_unet") and key.endswith("lora_down.weight"))
    stem = key.split(".")[0]
    tensors[key] = torch.cat([tensors[key], torch.zeros(1, tensors[key].shape[1])])
    up = tensors[f"{stem}.lora_up.weight"]
    tensors[f"{stem}.lora_up.weight"] = torch.cat([up, torch.ones(len(up), 1)], dim=1)
    tensors[f"{stem}.alpha"] = torch.tensor(ALPHA * (RANK + 1) / RANK)
    load_lora(model, write_diffusers(tmp_path, pairs))
    expected = predict(model)
    remove_lora(model, "lora_0")
    load_lora(model, write(tmp_path / "mixed.safetensors", tensors))
    torch.testing.assert_close(predict(model), expected, atol=1e-5, rtol=1e-5)


def test_disabled_equals_base_and_comes_back(
    model: DiffusionModel, tmp_path: Path, pairs: dict[str, tuple[torch.Tensor, torch.Tensor]]
) -> None:
    base = predict(model)
    load_lora(model, write_diffusers(tmp_path, pairs))
    loaded = predict(model)
    with lora_disabled(model):
        assert torch.equal(predict(model), base)
    assert torch.equal(predict(model), loaded)
    assert not any(p.requires_grad for p in (*model.unet.parameters(), *model.text.text_encoder.parameters()))


def test_two_loras_at_half_scale_equal_one_at_full_scale(
    model: DiffusionModel, tmp_path: Path, pairs: dict[str, tuple[torch.Tensor, torch.Tensor]]
) -> None:
    path = write_diffusers(tmp_path, pairs)
    load_lora(model, path)
    once = predict(model)
    load_lora(model, path)
    set_lora_scales(model, [0.5, 0.5])
    torch.testing.assert_close(predict(model), once, atol=1e-5, rtol=1e-5)
    assert [info["scale"] for info in model.loras] == [0.5, 0.5]


def test_removing_restores_the_original_modules(
    model: DiffusionModel, tmp_path: Path, pairs: dict[str, tuple[torch.Tensor, torch.Tensor]]
) -> None:
    before, base = snapshot(model), predict(model)
    load_lora(model, write_diffusers(tmp_path, pairs))
    load_lora(model, write_kohya(tmp_path, pairs))
    remove_lora(model, "lora_0")
    remove_lora(model, "lora_1")
    assert same(snapshot(model), before)
    assert torch.equal(predict(model), base)
    assert model.loras == []


def test_a_fresh_lora_changes_nothing(model: DiffusionModel) -> None:
    base = predict(model)
    parameters = add_trainable_lora(model.unet, rank=2)
    assert torch.equal(predict(model), base)
    assert {id(p) for p in model.unet.parameters() if p.requires_grad} == {id(p) for p in parameters}


def test_the_same_generator_gives_the_same_start(model: DiffusionModel) -> None:
    add_trainable_lora(model.unet, 2, adapter="one", generator=torch.Generator().manual_seed(3))
    add_trainable_lora(model.unet, 2, adapter="two", generator=torch.Generator().manual_seed(3))
    assert same(lora_state(model.unet, "one"), lora_state(model.unet, "two"))


def train_a_little(model: DiffusionModel, alpha: float = 4) -> list[torch.nn.Parameter]:
    parameters = add_trainable_lora(model.unet, rank=2, alpha=alpha)
    with torch.no_grad():
        for parameter in parameters:
            parameter.add_(0.3 * torch.randn_like(parameter))
    return parameters


def test_loading_beside_a_lora_in_training_leaves_it_trainable(
    model: DiffusionModel, tmp_path: Path, pairs: dict[str, tuple[torch.Tensor, torch.Tensor]]
) -> None:
    parameters = train_a_little(model)
    load_lora(model, write_diffusers(tmp_path, pairs))
    with lora_disabled(model):
        pass
    assert {id(p) for p in model.unet.parameters() if p.requires_grad} == {id(p) for p in parameters}


@pytest.mark.parametrize("contents", [lora_file, kohya_file])
def test_saved_and_loaded_equals_the_lora_in_memory(
    model: DiffusionModel, tmp_path: Path, contents: Callable[..., Any]
) -> None:
    train_a_little(model)
    expected = predict(model)
    write_tensors(tmp_path / "out.safetensors", *contents(model.unet, "trained", {"steps": "3"}))
    remove_lora(model, "trained")
    load_lora(model, tmp_path / "out.safetensors")
    assert torch.equal(predict(model), expected)


def test_state_taken_and_put_back_is_equal(model: DiffusionModel) -> None:
    train_a_little(model)
    state = lora_state(model.unet)
    for parameter in model.unet.parameters():
        if parameter.requires_grad:
            parameter.data.zero_()
    set_lora_state(model.unet, state)
    assert same(lora_state(model.unet), state)


@pytest.mark.parametrize("contents", [lora_file, kohya_file])
def test_diffusers_reads_our_file_and_predicts_the_same_noise(
    model: DiffusionModel, tmp_path: Path, contents: Callable[..., Any]
) -> None:
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    train_a_little(model)
    expected = predict(model)
    write_tensors(tmp_path / "out.safetensors", *contents(model.unet, "trained"))
    remove_lora(model, "trained")
    pipe = StableDiffusionPipeline(
        model.vae,
        model.text.text_encoder,
        model.tokenizer,
        model.unet,
        DDIMScheduler.from_config(model.schedule.config),
        None,
        None,
        requires_safety_checker=False,
    )
    pipe.load_lora_weights(tmp_path, weight_name="out.safetensors")
    torch.testing.assert_close(predict(model), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, predict_without(pipe, model), atol=1e-3)


def predict_without(pipe: StableDiffusionPipeline, model: DiffusionModel) -> torch.Tensor:
    pipe.unload_lora_weights()
    return predict(model)


def faulty(kind: str, folder: Path, pairs: Pairs) -> Path:
    tensors = diffusers_keys(pairs)
    key = next(iter(tensors))
    if kind == "unknown":
        tensors["unet.down_blocks.9.to_q.lora_A.weight"] = torch.ones(2, 2)
    elif kind == "wrong base":
        tensors = {f"transformer.{name}": tensor for name, tensor in tensors.items()}
    elif kind == "shape":
        tensors[key] = torch.ones(RANK, 5)
    elif kind == "rank":
        tensors[key] = tensors[key][:2]
    elif kind == "nan":
        tensors[key] = torch.full_like(tensors[key], torch.nan)
    elif kind == "half":
        del tensors[key]
    elif kind == "repeated":
        tensors[key.replace(".lora_A.", ".lora_A.default.")] = tensors[key].clone()
    return write(folder / "faulty.safetensors", tensors)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("unknown", "unknown"),
        ("wrong base", "no layer"),
        ("shape", "shape"),
        ("rank", "shape"),
        ("nan", "not finite"),
        ("half", "half"),
        ("repeated", "twice"),
    ],
)
def test_a_faulty_lora_is_refused_and_the_model_is_as_before(
    model: DiffusionModel, tmp_path: Path, pairs: dict[str, tuple[torch.Tensor, torch.Tensor]], kind: str, said: str
) -> None:
    before, base = snapshot(model), predict(model)
    with pytest.raises(ModelError, match=said) as caught:
        load_lora(model, faulty(kind, tmp_path, pairs))
    assert "faulty.safetensors" in caught.value.what
    assert same(snapshot(model), before)
    assert torch.equal(predict(model), base)
    assert model.loras == []


def test_a_scale_that_is_no_number_leaves_the_model_as_before(
    model: DiffusionModel, tmp_path: Path, pairs: dict[str, tuple[torch.Tensor, torch.Tensor]]
) -> None:
    before = snapshot(model)
    with pytest.raises(ModelError, match="scale"):
        load_lora(model, write_diffusers(tmp_path, pairs), float("nan"))
    assert same(snapshot(model), before)


@pytest.mark.parametrize("name", ["evil.safetensors", "evil.bin", "evil.pt", "evil.ckpt"])
def test_a_pickle_is_refused_and_never_run(model: DiffusionModel, tmp_path: Path, name: str) -> None:
    witness = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[Path]]:
            return (Path.touch, (witness,))

    torch.save({"x": Evil()}, tmp_path / name)
    with pytest.raises(ModelError, match="evil"):
        load_lora(model, tmp_path / name)
    assert not witness.exists()
