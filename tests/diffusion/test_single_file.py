"""Single-file checkpoints: the same model as its diffusers folder, and a sentence for everything else."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.configuration_utils import FrozenDict
from safetensors.torch import save_file
from toys import bare_text_weights, tiny_tokenizer, tiny_xl_model
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from smoothtool.diffusion import single_file
from smoothtool.diffusion.ldm_names import ldm_names
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.single_file import (
    CONFIGS,
    FAMILIES,
    TEXT,
    TEXT_1,
    TEXT_2,
    Family,
    TextPart,
    load_single_file,
    prediction_type_of,
)
from smoothtool.errors import ModelError
from smoothtool.readers.tensors import open_tensors

Weights = dict[str, torch.Tensor]


def renamed(weights: Weights, prefix: str, *changes: tuple[str, str]) -> Weights:
    """The weights whose names hold the first text of a change, with all changes made in order."""
    named = {}
    for key, value in weights.items():
        new = key
        for old, other in changes:
            new = new.replace(old, other)
        named[prefix + new] = value
    return named


def unet_in_ldm(model: DiffusionModel) -> Weights:
    """CompVis numbers all blocks of a side in a row; of the toy, two (down) or three (up) to a level."""
    downs = [
        (f"down_blocks.{b}.{part}.0.", f"input_blocks.{1 + 2 * b}.{at}.")
        for b in range(3)
        for at, part in enumerate(("resnets", "attentions"))
    ]
    downs += [(f"down_blocks.{b}.downsamplers.0.conv.", f"input_blocks.{2 + 2 * b}.0.op.") for b in range(2)]
    ups = [
        (f"up_blocks.{b}.{part}.{i}.", f"output_blocks.{2 * b + i}.{at}.")
        for b in range(3)
        for i in range(2)
        for at, part in enumerate(("resnets", "attentions"))
    ]
    ups += [("up_blocks.0.upsamplers.0.", "output_blocks.1.1."), ("up_blocks.1.upsamplers.0.", "output_blocks.3.2.")]
    mid = [
        ("mid_block.resnets.0.", "middle_block.0."),
        ("mid_block.attentions.0.", "middle_block.1."),
        ("mid_block.resnets.1.", "middle_block.2."),
    ]
    resnets = [
        ("norm1.", "in_layers.0."),
        ("conv1.", "in_layers.2."),
        ("norm2.", "out_layers.0."),
        ("conv2.", "out_layers.3."),
        ("time_emb_proj.", "emb_layers.1."),
        ("conv_shortcut.", "skip_connection."),
    ]
    ends = [
        ("time_embedding.linear_1.", "time_embed.0."),
        ("time_embedding.linear_2.", "time_embed.2."),
        ("conv_in.", "input_blocks.0.0."),
        ("conv_norm_out.", "out.0."),
        ("conv_out.", "out.2."),
    ]
    state = model.unet.state_dict()
    inner = {key: value for key, value in state.items() if ".transformer_blocks." in key}
    outer = {key: value for key, value in state.items() if key not in inner}
    prefix = "model.diffusion_model."
    return {**renamed(inner, prefix, *downs, *ups, *mid), **renamed(outer, prefix, *ends, *downs, *ups, *mid, *resnets)}


def vae_in_ldm(model: DiffusionModel) -> Weights:
    """Decoder levels count from the other end, and attention is made of 1x1 convolutions."""
    changes = [(f"down_blocks.{i}.resnets.", f"down.{i}.block.") for i in range(2)]
    changes += [(f"up_blocks.{i}.resnets.", f"up.{1 - i}.block.") for i in range(2)]
    changes += [
        ("down_blocks.0.downsamplers.0.", "down.0.downsample."),
        ("up_blocks.0.upsamplers.0.", "up.1.upsample."),
        ("to_out.0", "proj_out"),
        ("to_", ""),
        ("mid_block.resnets.0.", "mid.block_1."),
        ("mid_block.resnets.1.", "mid.block_2."),
        ("mid_block.attentions.0.", "mid.attn_1."),
        ("conv_shortcut", "nin_shortcut"),
        ("conv_norm_out", "norm_out"),
        ("group_norm", "norm"),
    ]
    named = renamed(model.vae.state_dict(), "first_stage_model.", *changes)
    return {
        key: value[..., None, None] if "attn_1" in key and value.ndim == 2 else value for key, value in named.items()
    }


def clip_in_ldm(model: DiffusionModel) -> Weights:
    """1.x keeps transformers' names, and the positions, which are no weights."""
    prefix = "cond_stage_model.transformer.text_model."
    return {
        **renamed(bare_text_weights(model.text.text_encoder), prefix),
        f"{prefix}embeddings.position_ids": torch.arange(16)[None],
    }


def open_clip_in_ldm(model: DiffusionModel) -> Weights:
    """2.x keeps OpenCLIP's names, with query, key and value in one."""
    return open_clip_named(bare_text_weights(model.text.text_encoder), f"{TEXT}model.")


def open_clip_named(state: Weights, prefix: str) -> Weights:
    """The names of transformers' CLIP as OpenCLIP has them, behind a prefix."""
    changes = (
        ("encoder.layers.", "transformer.resblocks."),
        ("layer_norm", "ln_"),
        ("self_attn", "attn"),
        ("fc1", "c_fc"),
        ("fc2", "c_proj"),
        ("final_ln_", "ln_final"),
        ("embeddings.token", "token"),
        ("embeddings.position_embedding.weight", "positional_embedding"),
    )
    named = renamed(
        {key: value for key, value in state.items() if "_proj." not in key or "out_proj" in key}, prefix, *changes
    )
    for layer in range(2):
        for kind in ("weight", "bias"):
            joined = [state[f"encoder.layers.{layer}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            named[f"{prefix}transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat(joined)
    return named


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    tiny_tokenizer(tmp_path / "words")
    return tmp_path / "words"


@pytest.fixture
def family(model: DiffusionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Family:
    """The toy as a family of its own, known by its text of width 16."""
    configs = tmp_path / "configs"
    model.unet.save_config(configs / "unet")
    model.vae.save_config(configs / "vae")
    model.text.text_encoder.config.save_pretrained(configs / "text_encoder")
    (configs / "scheduler").mkdir()
    (configs / "scheduler" / "scheduler_config.json").write_text(json.dumps(model.schedule.config))
    toy = Family(configs, (TextPart(TEXT, "!"),), {"epsilon": 16, "v_prediction": 24})
    monkeypatch.setitem(single_file.FAMILIES, 16, toy)
    monkeypatch.setattr(single_file, "prediction_type_of", lambda unet: "epsilon")
    return toy


def checkpoint(path: Path, *parts: Weights, dtype: torch.dtype = torch.float32) -> Path:
    weights = {key: value.to(dtype).contiguous().clone() for part in parts for key, value in part.items()}
    save_file(weights, path)
    return path


@pytest.mark.parametrize("text_in_ldm", [clip_in_ldm, open_clip_in_ldm])
def test_a_checkpoint_is_the_model_of_its_diffusers_folder(
    model: DiffusionModel,
    family: Family,
    tokenizer: Path,
    tmp_path: Path,
    text_in_ldm: Callable[[DiffusionModel], Weights],
) -> None:
    path = checkpoint(
        tmp_path / "a.safetensors",
        unet_in_ldm(model),
        vae_in_ldm(model),
        text_in_ldm(model),
        {"model_ema.decay": torch.zeros(())},
    )
    loaded = load_single_file(path, "a", tokenizer, device="cpu")
    for name, mine in loaded.parts.items():
        there = model.parts[name].state_dict()
        assert mine.state_dict().keys() == there.keys()
        assert all(torch.equal(value, there[key]) for key, value in mine.state_dict().items())
    assert loaded.fingerprint == model.fingerprint


def xl_in_ldm(model: DiffusionModel) -> Weights:
    """Stability's layout: both text encoders under `conditioner`, the second one in OpenCLIP's names."""
    state = model.unet.state_dict()
    unet = {f"model.diffusion_model.{name}": state[key] for key, name in ldm_names(model.unet, state).items()}
    first = renamed(bare_text_weights(model.text.text_encoder), f"{TEXT_1}transformer.text_model.")
    second = bare_text_weights(model.text.text_encoder_2)
    projection = second.pop("text_projection.weight")
    second = open_clip_named(second, f"{TEXT_2}model.") | {f"{TEXT_2}model.text_projection": projection.T}
    return {**unet, **vae_in_ldm(model), **first, **second}


@pytest.fixture
def xl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DiffusionModel:
    """The toy of Stable Diffusion XL, and its family, known by its text of width 40."""
    model, configs = tiny_xl_model(tmp_path / "xl-words"), tmp_path / "xl-configs"
    for name, part in model.parts.items():
        (part.save_config if hasattr(part, "save_config") else part.config.save_pretrained)(configs / name)
    (configs / "scheduler").mkdir()
    (configs / "scheduler" / "scheduler_config.json").write_text(json.dumps(model.schedule.config))
    text = (TextPart(TEXT_1, "<|endoftext|>"), TextPart(TEXT_2, "!", CLIPTextModelWithProjection))
    monkeypatch.setitem(single_file.FAMILIES, 40, Family(configs, text, {"epsilon": 16, "v_prediction": 16}))
    monkeypatch.setattr(single_file, "prediction_type_of", lambda unet: "epsilon")
    return model


def test_an_xl_checkpoint_is_the_model_of_its_diffusers_folder(
    xl: DiffusionModel, tokenizer: Path, tmp_path: Path
) -> None:
    loaded = load_single_file(checkpoint(tmp_path / "a.safetensors", xl_in_ldm(xl)), "a", tokenizer, device="cpu")
    for name, mine in loaded.parts.items():
        there = xl.parts[name].state_dict()
        assert mine.state_dict().keys() == there.keys()
        assert all(torch.equal(value, there[key]) for key, value in mine.state_dict().items())
    assert loaded.fingerprint == xl.fingerprint
    found, expected = (model.encode_prompts(["a red cat"]) for model in (loaded, xl))
    assert torch.equal(found.prompt_embeds, expected.prompt_embeds)
    assert torch.equal(found.pooled_prompt_embeds, expected.pooled_prompt_embeds)


def test_an_xl_unet_is_asked_what_it_predicts_with_all_that_it_takes(xl: DiffusionModel) -> None:
    assert prediction_type_of(xl.unet) in ("epsilon", "v_prediction")


def test_modules_have_the_names_of_the_published_xl_checkpoint() -> None:
    with torch.device("meta"):
        configs = FAMILIES[2048].configs
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(configs, subfolder="unet"))
    names = ldm_names(unet, [name for name, _ in unet.named_modules()])
    assert names["down_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k"] == (
        "input_blocks.4.1.transformer_blocks.1.attn2.to_k"
    )
    assert names["down_blocks.1.downsamplers.0.conv"] == "input_blocks.6.0.op"
    assert names["mid_block.attentions.0.transformer_blocks.9.ff.net.0.proj"] == (
        "middle_block.1.transformer_blocks.9.ff.net.0.proj"
    )
    assert names["up_blocks.0.upsamplers.0.conv"] == "output_blocks.2.2.conv"
    assert names["up_blocks.2.resnets.2.conv_shortcut"] == "output_blocks.8.0.skip_connection"
    assert names["add_embedding.linear_1"] == "label_emb.0.0"


def test_a_file_whose_name_says_distilled_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="turbo model is distilled"):
        load_single_file(tmp_path / "dreamshaperXL_turbo.safetensors", "a", tokenizer, device="cpu")


def test_half_precision_on_disk_computes_in_the_dtype_asked_for(
    model: DiffusionModel, family: Family, tokenizer: Path, tmp_path: Path
) -> None:
    parts = unet_in_ldm(model), vae_in_ldm(model), clip_in_ldm(model)
    path = checkpoint(tmp_path / "a.safetensors", *parts, dtype=torch.float16)
    loaded = load_single_file(path, "a", tokenizer, device="cpu")
    assert {part.dtype for part in loaded.parts.values()} == {torch.float32}
    assert loaded.fingerprint == model.fingerprint


def test_the_family_fills_prompts_up(model: DiffusionModel, family: Family, tokenizer: Path, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.safetensors", unet_in_ldm(model), vae_in_ldm(model), clip_in_ldm(model))
    loaded = load_single_file(path, "a", tokenizer, device="cpu").tokenizer
    tokens = loaded("a cat", padding="max_length", max_length=16, truncation=True).input_ids
    assert loaded.model_max_length == 16
    assert tokens[:4] == [
        loaded.bos_token_id,
        *loaded("a cat", add_special_tokens=False).input_ids,
        loaded.eos_token_id,
    ]
    assert tokens[4:] == [loaded.convert_tokens_to_ids("!")] * 12


def test_a_velocity_model_gets_its_schedule_and_size(
    model: DiffusionModel, family: Family, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(single_file, "prediction_type_of", lambda unet: "v_prediction")
    path = checkpoint(tmp_path / "a.safetensors", unet_in_ldm(model), vae_in_ldm(model), clip_in_ldm(model))
    loaded = load_single_file(path, "a", tokenizer, device="cpu")
    assert loaded.schedule.prediction_type == "v_prediction"
    assert loaded.native_size_px == 24 * loaded.vae_scale_factor


class Perfect:
    """The best prediction for pictures that are all alike, x0: eps is (z - sqrt(abar) x0) / sqrt(1 - abar)."""

    config = FrozenDict(in_channels=4, cross_attention_dim=16)
    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, kind: str, picture: float) -> None:
        self.kind, self.picture = kind, picture

    def __call__(self, latents: torch.Tensor, timestep: int, **others: object) -> tuple[torch.Tensor]:
        abar = 0.0047
        eps = (latents - abar**0.5 * self.picture) / (1 - abar) ** 0.5
        return (eps if self.kind == "epsilon" else abar**0.5 * eps - (1 - abar) ** 0.5 * self.picture,)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("picture", [-2.0, 0.0, 2.0])
def test_a_perfect_unet_tells_what_it_predicts(kind: str, picture: float) -> None:
    assert prediction_type_of(Perfect(kind, picture)) == kind


@pytest.mark.parametrize(
    ("width", "millions"),
    [
        (768, (859.520964, 83.653863, 123.060480)),
        (1024, (865.910724, 83.653863, 340.387840)),
        (2048, (2567.463684, 83.653863, 123.060480, 694.659840)),
    ],
)
def test_the_shipped_configs_have_as_many_weights_as_the_published_models(width: int, millions: tuple) -> None:
    family, folders = FAMILIES[width], ("text_encoder", "text_encoder_2")
    configs = family.configs
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(configs, subfolder="unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(configs, subfolder="vae"))
        encoders = [
            part.kind(CLIPTextConfig.from_pretrained(configs, subfolder=folder))
            for part, folder in zip(family.text, folders, strict=False)
        ]
    parts = (unet, vae, *encoders)
    assert tuple(sum(value.numel() for value in part.parameters()) / 1e6 for part in parts) == millions
    assert unet.config.cross_attention_dim == sum(part.config.hidden_size for part in encoders) == width


def test_shipped_schedules_are_known_to_diffusers() -> None:
    from smoothtool.diffusion.ddim import Schedule

    for name in ("sd1", "sd2", "sdxl"):
        schedule = Schedule.from_config(
            json.loads((CONFIGS / name / "scheduler" / "scheduler_config.json").read_text())
        )
        assert schedule.timesteps(50)[::49] == (981, 1)
        assert schedule.final_alpha_cumprod == schedule.alphas_cumprod[0] == 1 - 0.00085


CROSS = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
FIRST = "model.diffusion_model.input_blocks.0.0.weight"


@pytest.mark.parametrize(
    ("shapes", "what"),
    [
        ({CROSS: (4, 2048), FIRST: (4, 9, 3, 3)}, "variant of Stable Diffusion XL for in-painting"),
        (
            {CROSS: (4, 2048), FIRST: (4, 4, 3, 3), f"{TEXT_1}x": (1,), "first_stage_model.x": (1,)},
            "no second text encoder",
        ),
        ({CROSS: (4, 1280)}, "XL refiner"),
        ({CROSS: (4, 512)}, "text 512 wide"),
        ({CROSS: (4, 768), FIRST: (4, 9, 3, 3)}, "9 input channels"),
        ({CROSS: (4, 768), FIRST: (4, 4, 3, 3)}, "no VAE and no text encoder"),
        ({CROSS: (4, 768), FIRST: (4, 4, 3, 3), "first_stage_model.x": (1,)}, "no text encoder"),
        ({CROSS: (4, 768)}, "input_blocks.0.0.weight"),
        ({"model.diffusion_model.joint_blocks.0.context_block.x": (1,)}, "Stable Diffusion 3"),
        ({"double_blocks.0.img_attn.norm.key_norm.scale": (1,)}, "FLUX"),
        ({"single_transformer_blocks.0.attn.to_q.weight": (1,)}, "FLUX"),
        ({"lora_unet_down_blocks_0.lora_up.weight": (1,)}, "LoRA"),
        ({"unet.down_blocks.0.to_k.lora_A.weight": (1,)}, "LoRA"),
        ({"control_model.input_blocks.0.0.weight": (1,)}, "ControlNet"),
        ({"down_blocks.0.resnets.0.conv1.weight": (1,)}, "single part of a diffusers model"),
        ({"first_stage_model.encoder.conv_in.weight": (1,)}, "VAE without its UNet"),
        ({"x": (1,)}, "unknown layout"),
    ],
)
def test_what_is_no_usable_checkpoint_is_named(shapes: dict, what: str, tokenizer: Path, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "a.safetensors", {key: torch.zeros(shape) for key, shape in shapes.items()})
    with pytest.raises(ModelError, match=what):
        load_single_file(path, "a", tokenizer, device="cpu")


@pytest.mark.parametrize(
    "lost",
    [
        "model.diffusion_model.out.2.bias",
        "first_stage_model.quant_conv.bias",
        "cond_stage_model.transformer.text_model.final_layer_norm.bias",
    ],
)
def test_a_lost_weight_is_an_error(
    model: DiffusionModel, family: Family, tokenizer: Path, tmp_path: Path, lost: str
) -> None:
    weights = {**unet_in_ldm(model), **vae_in_ldm(model), **clip_in_ldm(model)}
    del weights[lost]
    with pytest.raises(ModelError, match=r"the weights lack .*bias"):
        load_single_file(checkpoint(tmp_path / "a.safetensors", weights), "a", tokenizer, device="cpu")


def test_a_weight_of_another_shape_is_an_error(
    model: DiffusionModel, family: Family, tokenizer: Path, tmp_path: Path
) -> None:
    weights = {**unet_in_ldm(model), **vae_in_ldm(model), **clip_in_ldm(model)}
    weights["model.diffusion_model.out.2.bias"] = torch.zeros(5)
    with pytest.raises(ModelError, match=r"unet: conv_out\.bias has the shape \[5\], not \[4\]"):
        load_single_file(checkpoint(tmp_path / "a.safetensors", weights), "a", tokenizer, device="cpu")


def test_without_a_tokenizer_the_command_that_gets_one_is_named(
    model: DiffusionModel, family: Family, tmp_path: Path
) -> None:
    path = checkpoint(tmp_path / "a.safetensors", unet_in_ldm(model), vae_in_ldm(model), clip_in_ldm(model))
    with pytest.raises(ModelError) as caught:
        load_single_file(path, "a", None, device="cpu")
    assert caught.value.hint.startswith("smoothtool models pull openai/clip-vit-large-patch14")


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("write", [lambda what, path: path.write_bytes(pickle.dumps(what)), torch.save])
@pytest.mark.parametrize("name", ["a.safetensors", "a.ckpt"])
def test_a_pickle_is_refused_and_never_run(
    write: Callable[[Any, Path], object], name: str, tokenizer: Path, tmp_path: Path
) -> None:
    write(Bomb(tmp_path / "boom"), tmp_path / name)
    with pytest.raises(ModelError, match="pickle"):
        load_single_file(tmp_path / name, "a", tokenizer, device="cpu")
    assert not (tmp_path / "boom").exists()


@pytest.mark.parametrize(("keep", "words"), [(0, "is empty"), (5, "not a safetensors file"), (2000, "cut short")])
def test_a_truncated_file_is_named(
    model: DiffusionModel, tokenizer: Path, tmp_path: Path, keep: int, words: str
) -> None:
    path = checkpoint(tmp_path / "a.safetensors", unet_in_ldm(model))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match=words):
        load_single_file(path, "a", tokenizer, device="cpu")
    with pytest.raises(ModelError, match="there is no such file"):
        load_single_file(tmp_path / "none.safetensors", "a", tokenizer, device="cpu")


def wrapped(weights: Weights, prefix: str) -> Weights:
    return {prefix + key: value for key, value in weights.items()}


def without_text_model(weights: Weights) -> Weights:
    """As NovelAI's checkpoints have it."""
    return {key.replace("transformer.text_model.", "transformer."): value for key, value in weights.items()}


def averages_alone(weights: Weights) -> Weights:
    """The UNet as its moving averages are named: without dots."""
    prefix = "model.diffusion_model."
    return {
        "model_ema.diffusion_model" + key.removeprefix(prefix).replace(".", "")
        if key.startswith(prefix)
        else key: value
        for key, value in weights.items()
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: wrapped(weights, "state_dict."),
        lambda weights: wrapped(weights, "module."),
        without_text_model,
        averages_alone,
        lambda weights: wrapped(without_text_model(weights), "state_dict."),
    ],
    ids=["state_dict.", "module.", "NovelAI", "EMA alone", "both"],
)
def test_a_checkpoint_in_another_wrapping_is_the_same_model(
    model: DiffusionModel, family: Family, tokenizer: Path, tmp_path: Path, change: Callable[[Weights], Weights]
) -> None:
    weights = change({**unet_in_ldm(model), **vae_in_ldm(model), **clip_in_ldm(model)})
    loaded = load_single_file(checkpoint(tmp_path / "a.safetensors", weights), "a", tokenizer, device="cpu")
    assert loaded.fingerprint == model.fingerprint


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.bfloat16, torch.float64])
def test_every_precision_on_disk_loads(
    model: DiffusionModel, family: Family, tokenizer: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    parts = unet_in_ldm(model), vae_in_ldm(model), clip_in_ldm(model)
    loaded = load_single_file(checkpoint(tmp_path / "a.safetensors", *parts, dtype=dtype), "a", tokenizer, device="cpu")
    stored = model.unet.conv_in.weight.to(dtype).float()
    assert torch.equal(loaded.unet.conv_in.weight, stored)


def test_quantised_weights_in_a_checkpoint_are_refused(
    model: DiffusionModel, family: Family, tokenizer: Path, tmp_path: Path
) -> None:
    parts = unet_in_ldm(model), vae_in_ldm(model), clip_in_ldm(model)
    with pytest.raises(ModelError, match="holds I8, not weights"):
        load_single_file(checkpoint(tmp_path / "a.safetensors", *parts, dtype=torch.int8), "a", tokenizer, device="cpu")


@pytest.mark.parametrize(
    ("keys", "metadata"),
    [
        (("v_pred", "ztsnr"), {}),
        ((), {"modelspec.prediction_type": "v", "ss_zero_terminal_snr": "True"}),
        ((), {"ss_v_parameterization": "True", "ztsnr": "true"}),
    ],
)
def test_a_checkpoint_marked_for_zero_snr_gets_that_schedule(
    model: DiffusionModel, family: Family, tokenizer: Path, tmp_path: Path, keys: tuple, metadata: dict
) -> None:
    weights = {**unet_in_ldm(model), **vae_in_ldm(model), **clip_in_ldm(model)}
    path = checkpoint(tmp_path / "a.safetensors", weights)
    save_file({**weights, **{key: torch.tensor([]) for key in keys}}, path, metadata=metadata)
    schedule = load_single_file(path, "a", tokenizer, device="cpu").schedule
    assert schedule.prediction_type == "v_prediction"
    assert schedule.alpha_pairs(5)[0][:2] == (999, 0)


def test_a_zero_snr_mark_on_a_model_that_predicts_noise_is_refused(
    model: DiffusionModel, family: Family, tokenizer: Path, tmp_path: Path
) -> None:
    weights = {**unet_in_ldm(model), **vae_in_ldm(model), **clip_in_ldm(model), "ztsnr": torch.zeros(1)}
    with pytest.raises(ModelError, match="zero terminal SNR"):
        load_single_file(checkpoint(tmp_path / "a.safetensors", weights), "a", tokenizer, device="cpu")


def test_a_lora_merged_into_a_single_file_changes_its_own_layers_alone(
    model: DiffusionModel, family: Family, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from smoothtool.commands.lora import merge
    from smoothtool.weights.models import ModelLocation

    path = checkpoint(tmp_path / "a.safetensors", unet_in_ldm(model), vae_in_ldm(model), clip_in_ldm(model))
    place = ModelLocation("a", single_file=path, tokenizer=tokenizer)
    monkeypatch.setattr(merge, "resolve_model", lambda name: place)
    layers = ("lora_unet_mid_block_attentions_0_proj_in", "lora_te_text_model_encoder_layers_0_self_attn_q_proj")
    lora = {f"{stem}.lora_{side}.weight": torch.ones(shape) for stem in layers
            for side, shape in (("down", (2, 16)), ("up", (16, 2)))}  # fmt: skip
    save_file(lora, tmp_path / "lora.safetensors")
    made = merge.merge("a", [f"{tmp_path / 'lora.safetensors'}:0.5"], tmp_path / "b.safetensors", dtype="", force=False)
    with open_tensors(path) as before, open_tensors(made) as after:
        changed = {key for key in before.header.tensors if not torch.equal(before.get(key), after.get(key))}
        assert before.header.tensors == after.header.tensors
        key = "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight"
        torch.testing.assert_close(after.get(key), before.get(key) + 1)
    assert changed == {key, "model.diffusion_model.middle_block.1.proj_in.weight"}
