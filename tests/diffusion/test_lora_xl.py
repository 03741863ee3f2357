"""LoRAs of Stable Diffusion XL: three parts, every dialect, and no mixing with Stable Diffusion 1's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline
from safetensors.torch import load_file, save_file
from toys import layer_of, tiny_model, tiny_xl_model

from smoothtool.diffusion.lora import add_trainable_lora, kohya_file, load_lora, lora_file, lora_layers, remove_lora
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import ModelError
from smoothtool.files.storage.tensors import write_tensors

RANK, ALPHA = 3, 6.0
UNET_LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
KOHYA_UNET_LAYER = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
FIRST_LAYER, SECOND_LAYER = "encoder.layers.0.self_attn.q_proj", "text_model.encoder.layers.0.self_attn.q_proj"

Pairs = dict[tuple[str, str], tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture
def xl(tmp_path: Path) -> DiffusionModel:
    return tiny_xl_model(tmp_path / "xl")


@pytest.fixture
def pairs() -> Pairs:
    torch.manual_seed(5)
    shapes = {
        ("unet", UNET_LAYER): (16, 40),
        ("text_encoder", FIRST_LAYER): (16, 16),
        ("text_encoder_2", SECOND_LAYER): (24, 24),
    }
    return {place: (torch.randn(RANK, i), torch.randn(o, RANK)) for place, (o, i) in shapes.items()}


@torch.no_grad()
def predict(model: DiffusionModel) -> torch.Tensor:
    latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    return model.predict_noise(latents, 500, model.encode_prompts(["a cat", "red cake"]))


def merged(model: DiffusionModel, pairs: Pairs) -> DiffusionModel:
    """The algebra: W + (alpha / r) up down, written into the weights."""
    for (part, name), (down, up) in pairs.items():
        layer_of(model.parts[part], name).weight.data += ALPHA / RANK * up @ down
    return model


def in_diffusers(folder: Path, pairs: Pairs) -> Path:
    tensors = {
        f"{part}.{name}.lora_{letter}.weight": tensor.contiguous()
        for (part, name), pair in pairs.items()
        for letter, tensor in zip("AB", pair, strict=True)
    }
    settings = {f"{part}.{key}": value for part, _ in pairs for key, value in (("r", RANK), ("lora_alpha", ALPHA))}
    save_file(tensors, folder / "new.safetensors", metadata={"lora_adapter_metadata": json.dumps(settings)})
    return folder / "new.safetensors"


def in_kohya(folder: Path, pairs: Pairs, unet_layer: str = KOHYA_UNET_LAYER) -> Path:
    stems = {
        "unet": unet_layer,
        "text_encoder": f"lora_te1_text_model_{FIRST_LAYER.replace('.', '_')}",
        "text_encoder_2": f"lora_te2_{SECOND_LAYER.replace('.', '_')}",
    }
    tensors = {}
    for (part, _), (down, up) in pairs.items():
        tensors |= {f"{stems[part]}.lora_down.weight": down, f"{stems[part]}.lora_up.weight": up}
        tensors[f"{stems[part]}.alpha"] = torch.tensor(ALPHA)
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "kohya.safetensors")
    return folder / "kohya.safetensors"


def in_kohya_with_diffusers_names(folder: Path, pairs: Pairs) -> Path:
    return in_kohya(folder, pairs, f"lora_unet_{UNET_LAYER.replace('.', '_')}")


@pytest.mark.parametrize("write", [in_diffusers, in_kohya, in_kohya_with_diffusers_names])
def test_every_dialect_equals_weights_merged_by_hand(
    xl: DiffusionModel, pairs: Pairs, tmp_path: Path, write: Callable[[Path, Pairs], Path]
) -> None:
    load_lora(xl, write(tmp_path, pairs))
    expected = merged(tiny_xl_model(tmp_path / "other"), pairs)
    torch.testing.assert_close(predict(xl), predict(expected), atol=1e-5, rtol=1e-5)


def test_a_peft_folder_changes_the_unet(xl: DiffusionModel, pairs: Pairs, tmp_path: Path) -> None:
    of_unet = {place: pair for place, pair in pairs.items() if place[0] == "unet"}
    tensors = {
        key.replace("unet.", "base_model.model."): value
        for key, value in load_file(in_diffusers(tmp_path, of_unet)).items()
    }
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": RANK, "lora_alpha": ALPHA}))
    load_lora(xl, tmp_path / "adapter_model.safetensors")
    torch.testing.assert_close(
        predict(xl), predict(merged(tiny_xl_model(tmp_path / "other"), of_unet)), atol=1e-5, rtol=1e-5
    )


def test_removing_leaves_all_three_parts_as_they_were(xl: DiffusionModel, pairs: Pairs, tmp_path: Path) -> None:
    before = predict(xl)
    info = load_lora(xl, in_diffusers(tmp_path, pairs))
    assert [len(lora_layers(part, info["adapter"])) for part in xl.lora_parts.values()] == [1, 1, 1]
    remove_lora(xl, info["adapter"])
    assert torch.equal(predict(xl), before)
    assert xl.fingerprint == tiny_xl_model(tmp_path / "other").fingerprint


@pytest.mark.parametrize("contents", [lora_file, kohya_file])
def test_diffusers_reads_our_file_and_predicts_the_same_noise(
    xl: DiffusionModel, tmp_path: Path, contents: Callable[..., Any]
) -> None:
    for parameter in add_trainable_lora(xl.unet, RANK, alpha=ALPHA):
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(2))
    expected = predict(xl)
    write_tensors(tmp_path / "out.safetensors", *contents(xl.unet, "trained"))
    remove_lora(xl, "trained")
    base = predict(xl)
    pipe = StableDiffusionXLPipeline(
        unet=xl.unet, vae=xl.vae, scheduler=DDIMScheduler(), **xl.text.encoders, **xl.text.tokenizers
    )
    pipe.load_lora_weights(tmp_path, weight_name="out.safetensors")
    torch.testing.assert_close(predict(xl), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, base, atol=1e-3)


def test_kohya_files_name_layers_as_kohyas_trainer_does(xl: DiffusionModel) -> None:
    add_trainable_lora(xl.unet, RANK)
    stems = {key.partition(".")[0] for key in kohya_file(xl.unet, "trained")[0]}
    assert KOHYA_UNET_LAYER in stems
    assert all(
        stem.startswith(("lora_unet_input_blocks", "lora_unet_middle_block", "lora_unet_output_blocks"))
        for stem in stems
    )


@pytest.fixture
def widths(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toys' widths of text under the families' names."""
    from smoothtool.diffusion import lora_keys

    monkeypatch.setattr(
        lora_keys, "BY_TEXT_WIDTH", {16: "Stable Diffusion 1.x", 40: "Stable Diffusion XL", 2048: "Stable Diffusion XL"}
    )


@pytest.mark.parametrize("write", [in_diffusers, in_kohya])
def test_an_xl_lora_on_another_model_is_refused_with_both_names(
    model: DiffusionModel, pairs: Pairs, tmp_path: Path, widths: None, write: Callable[[Path, Pairs], Path]
) -> None:
    for part in (pairs, {place: pair for place, pair in pairs.items() if place[0] == "text_encoder_2"}):
        with pytest.raises(ModelError, match=r"LoRA is of Stable Diffusion XL, and the model is Stable Diffusion 1.x"):
            load_lora(model, write(tmp_path, part))
    assert torch.equal(predict(model), predict(tiny_model(tmp_path / "other")))


def test_another_lora_on_xl_is_refused_with_both_names(xl: DiffusionModel, tmp_path: Path, widths: None) -> None:
    other = tiny_model(tmp_path / "other")
    add_trainable_lora(other.unet, RANK)
    write_tensors(tmp_path / "sd1.safetensors", *lora_file(other.unet, "trained"))
    with pytest.raises(ModelError, match=r"LoRA is of Stable Diffusion 1.x, and the model is Stable Diffusion XL"):
        load_lora(xl, tmp_path / "sd1.safetensors")
