"""LoHa, LoKr, LoCon, DoRA and whole differences are applied exactly; what cannot be applied is refused by its name."""

from __future__ import annotations

import json
import random as random_module
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from smoothtool.diffusion.ldm_names import ldm_names
from smoothtool.diffusion.lora import load_lora, lora_disabled
from smoothtool.diffusion.lora_keys import adaptable
from smoothtool.diffusion.lora_kinds import WrongShapeError, low_rank_change
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import ModelError
from smoothtool.weights.lora_names import ENDINGS

Change = tuple[dict[str, torch.Tensor], torch.Tensor]
Kind = Callable[[torch.Tensor], Change]

LINEAR = "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
WIDE = "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj"
POINT = "down_blocks.0.attentions.0.proj_in"
CONV = "mid_block.resnets.0.conv1"
PLACES = (LINEAR, WIDE, POINT, CONV)
ALPHA = 3.0


def random(*shape: int) -> torch.Tensor:
    return 0.3 * torch.randn(*shape)


def lora(weight: torch.Tensor) -> Change:
    """-> (tensors by ending, the change of the weight by the definition)."""
    down, up = random(4, *weight.shape[1:]), random(len(weight), 4, *(1 for _ in weight.shape[2:]))
    delta = ALPHA / 4 * (up.flatten(1) @ down.flatten(1)).view(weight.shape)
    return {"lora_down.weight": down, "lora_up.weight": up, "alpha": torch.tensor(ALPHA)}, delta


def locon_with_a_core(weight: torch.Tensor) -> Change:
    if weight.ndim == 2:
        return lora(weight)
    down, core, up = random(4, weight.shape[1], 1, 1), random(4, 4, *weight.shape[2:]), random(len(weight), 4, 1, 1)
    delta = torch.zeros_like(weight)
    for p in range(4):
        for r in range(4):
            delta += up[:, p, 0, 0].view(-1, 1, 1, 1) * core[p, r] * down[r, :, 0, 0].view(1, -1, 1, 1)
    tensors = {"lora_down.weight": down, "lora_mid.weight": core, "lora_up.weight": up}
    return {**tensors, "alpha": torch.tensor(ALPHA)}, ALPHA / 4 * delta


def loha(weight: torch.Tensor, rank: int = 2) -> Change:
    out, columns = len(weight), weight[0].numel()
    a, b, c, d = random(out, rank), random(rank, columns), random(out, rank), random(rank, columns)
    tensors = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d, "alpha": torch.tensor(ALPHA)}
    return tensors, (ALPHA / rank * (a @ b) * (c @ d)).view(weight.shape)


def loha_of_high_rank(weight: torch.Tensor) -> Change:
    return loha(weight, rank=7)


def loha_with_cores(weight: torch.Tensor) -> Change:
    if weight.ndim == 2:
        return loha(weight)
    tensors, factors = {}, []
    for n in "12":
        core, left, right = random(3, 3, *weight.shape[2:]), random(3, len(weight)), random(3, weight.shape[1])
        tensors |= {f"hada_t{n}": core, f"hada_w{n}_a": left, f"hada_w{n}_b": right}
        factor = torch.zeros_like(weight)
        for i in range(3):
            for j in range(3):
                factor += core[i, j] * left[i].view(-1, 1, 1, 1) * right[j].view(1, -1, 1, 1)
        factors.append(factor)
    return {**tensors, "alpha": torch.tensor(ALPHA)}, ALPHA / 3 * factors[0] * factors[1]


def lokr(weight: torch.Tensor) -> Change:
    left, right = random(4, 2), random(len(weight) // 4, weight.shape[1] // 2, *weight.shape[2:])
    delta = torch.kron(left.view(4, 2, *(1 for _ in weight.shape[2:])), right)
    return {"lokr_w1": left, "lokr_w2": right, "alpha": torch.tensor(99.0)}, delta


def lokr_of_products(weight: torch.Tensor) -> Change:
    kernel = weight.shape[2:].numel()
    a, b = random(4, 2), random(2, 2)
    c, d = random(len(weight) // 4, 2), random(2, weight.shape[1] // 2 * kernel)
    right = (c @ d).view(len(weight) // 4, weight.shape[1] // 2, *weight.shape[2:])
    delta = ALPHA / 2 * torch.kron((a @ b).view(4, 2, *(1 for _ in weight.shape[2:])), right)
    tensors = {"lokr_w1_a": a, "lokr_w1_b": b, "lokr_w2_a": c, "lokr_w2_b": d}
    return {**tensors, "alpha": torch.tensor(ALPHA)}, delta


def whole(weight: torch.Tensor) -> Change:
    delta = random(*weight.shape)
    return {"diff": delta}, delta


def dora_of(kind: Kind) -> Kind:
    def make(weight: torch.Tensor) -> Change:
        tensors, delta = kind(weight)
        lengths = 0.5 + torch.rand(len(weight))
        moved = weight + delta
        rows = moved.flatten(1).norm(dim=1).view(-1, *(1 for _ in weight.shape[1:]))
        tensors["dora_scale"] = lengths.view(-1, *(1 for _ in weight.shape[1:]))
        return tensors, moved * tensors["dora_scale"] / rows - weight

    make.__name__ = f"dora_of_{kind.__name__}"
    return make


def dora_by_columns(weight: torch.Tensor) -> Change:
    tensors, delta = lora(weight)
    moved = weight + delta
    columns = moved.transpose(0, 1).flatten(1).norm(dim=1).view(1, -1, *(1 for _ in weight.shape[2:]))
    tensors["dora_scale"] = (0.5 + torch.rand(weight.shape[1])).view(columns.shape)
    return tensors, moved * tensors["dora_scale"] / columns - weight


KINDS = [
    lora,
    locon_with_a_core,
    loha,
    loha_of_high_rank,
    loha_with_cores,
    lokr,
    lokr_of_products,
    whole,
    dora_of(lora),
    dora_of(loha),
    dora_of(lokr),
    dora_by_columns,
]


def predict(model: DiffusionModel) -> torch.Tensor:
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.predict_noise(latents, 500, model.encode_prompts(["a cat"]))


def write(path: Path, tensors: dict[str, torch.Tensor], **metadata: str) -> Path:
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, path, metadata=metadata or None)
    return path


def stem(name: str) -> str:
    return "lora_unet_" + name.replace(".", "_")


def weights_of(model: DiffusionModel, name: str) -> torch.Tensor:
    return model.unet.get_submodule(name).weight.detach()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_every_kind_changes_the_model_as_its_definition_says(
    model: DiffusionModel, tmp_path: Path, kind: Kind, scale: float
) -> None:
    torch.manual_seed(2)
    tensors, deltas = {}, {}
    for name in PLACES:
        weight = weights_of(model, name)
        if kind is dora_by_columns and weight.shape[0] == weight.shape[1]:
            continue  # rows and columns could not be told apart
        own, deltas[name] = kind(weight)
        tensors |= {f"{stem(name)}.{ending}": value for ending, value in own.items()}
    base = predict(model)
    load_lora(model, write(tmp_path / "x.safetensors", tensors), scale)
    found = predict(model)
    with lora_disabled(model):
        assert torch.equal(predict(model), base)
    for name, delta in deltas.items():
        layer = model.unet.get_submodule(name)
        layer.base_layer.weight.data += scale * delta
    with lora_disabled(model):
        torch.testing.assert_close(found, predict(model), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, base, atol=1e-3)


def test_a_loha_of_low_rank_stays_low(model: DiffusionModel, tmp_path: Path) -> None:
    tensors, _ = loha(weights_of(model, WIDE))
    info = load_lora(model, write(tmp_path / "x.safetensors", {f"{stem(WIDE)}.{k}": v for k, v in tensors.items()}))
    assert info["rank"] == 4


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.float64]
)
def test_every_precision_on_disk_is_applied(model: DiffusionModel, tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    tensors, _ = lora(weights_of(model, LINEAR))
    stored = {f"{stem(LINEAR)}.{key}": value.to(dtype) for key, value in tensors.items()}
    load_lora(model, write(tmp_path / "x.safetensors", stored))
    layer = model.unet.get_submodule(LINEAR)
    assert torch.equal(layer.lora_A["lora_0"].weight, tensors["lora_down.weight"].to(dtype).float())


@pytest.mark.parametrize(
    "spell",
    [
        lambda name, ldm: "lora_unet_" + ldm.replace(".", "_"),
        lambda name, ldm: "diffusion_model." + ldm,
        lambda name, ldm: "diffusion_model." + name,
        lambda name, ldm: "lycoris_" + name.replace(".", "_"),
        lambda name, ldm: "base_model.model." + name,
    ],
    ids=["kohya, CompVis", "ComfyUI, CompVis", "ComfyUI", "LyCORIS", "peft"],
)
def test_every_spelling_of_a_layer_is_understood(
    model: DiffusionModel, tmp_path: Path, spell: Callable[[str, str], str]
) -> None:
    tensors = {}
    names = [name for name in adaptable(model.unet) if not name.startswith("conv_norm")]
    for name, other in ldm_names(model.unet, names).items():
        own, _ = lora(weights_of(model, name))
        tensors |= {f"{spell(name, other)}.{ending}": value for ending, value in own.items()}
    assert load_lora(model, write(tmp_path / "x.safetensors", tensors))["layers"] == len(names)


def plain(model: DiffusionModel) -> dict[str, torch.Tensor]:
    return {f"{stem(LINEAR)}.{key}": value for key, value in lora(weights_of(model, LINEAR))[0].items()}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({f"{stem(LINEAR)}.oft_blocks": (2, 2)}, "an OFT adapter"),
        ({f"{stem(LINEAR)}.weight": (16,), f"{stem(LINEAR)}.on_input": ()}, "an IA3 adapter"),
        ({f"{stem(LINEAR)}.weight": (16,)}, "an IA3 adapter"),
        ({"emb_params": (3, 16)}, "a textual inversion"),
        ({"<word>": (1, 16)}, "a textual inversion"),
        ({"clip_l": (1, 16), "clip_g": (1, 32)}, "a textual inversion"),
        ({"lora_transformer_single_transformer_blocks_0_attn_to_q.lora_down.weight": (4, 4)}, "a LoRA of Flux"),
        ({"transformer.joint_blocks.0.x.lora_A.weight": (4, 4)}, "a LoRA of Stable Diffusion 3"),
        ({f"{stem(CONV)}.diff_b": (16,)}, "a difference of biases"),
        ({"model.diffusion_model.input_blocks.0.0.weight": (4, 4, 3, 3)}, "a whole model"),
        ({"conv_in.weight": (4, 4, 3, 3)}, "a whole model"),
        ({"control_model.zero_convs.0.0.weight": (4, 4)}, "a ControlNet"),
        ({"ip_adapter.1.to_k_ip.weight": (4, 4)}, "an IP-Adapter"),
        ({f"{stem(LINEAR)}.a1.weight": (4, 4)}, "a GLoRA adapter"),
    ],
)
@pytest.mark.parametrize("beside", [False, True])
def test_a_kind_that_cannot_be_applied_is_named(
    model: DiffusionModel, tmp_path: Path, tensors: dict[str, tuple[int, ...]], words: str, beside: bool
) -> None:
    made = {key: torch.zeros(shape) for key, shape in tensors.items()} | (plain(model) if beside else {})
    if beside and ("emb_params" not in tensors and all("." not in key for key in tensors)):
        made |= {"bundle_emb.x.string_to_param.*": torch.zeros(2, 16)}
    with pytest.raises(ModelError, match=f"(this is|it holds) {words}"):
        load_lora(model, write(tmp_path / "x.safetensors", made))
    assert model.loras == []


def test_loras_of_integers_are_refused(model: DiffusionModel, tmp_path: Path) -> None:
    tensors = {key: value.to(torch.int8) for key, value in plain(model).items()}
    with pytest.raises(ModelError, match="holds I8, not weights"):
        load_lora(model, write(tmp_path / "x.safetensors", tensors))


@pytest.mark.parametrize("kind", [loha, lokr, lokr_of_products, whole, dora_of(lora)], ids=lambda kind: kind.__name__)
def test_pieces_of_another_base_model_are_refused_by_shape(model: DiffusionModel, tmp_path: Path, kind: Kind) -> None:
    tensors, _ = kind(torch.zeros(48, 40))
    with pytest.raises(ModelError, match=r"this model needs|the LoRA is of"):
        load_lora(model, write(tmp_path / "x.safetensors", {f"{stem(LINEAR)}.{k}": v for k, v in tensors.items()}))


@pytest.mark.parametrize("kind", [lora, loha, lokr_of_products, dora_of(lora)], ids=lambda kind: kind.__name__)
def test_a_rank_of_zero_is_refused(model: DiffusionModel, tmp_path: Path, kind: Kind) -> None:
    tensors, _ = kind(weights_of(model, LINEAR))
    ranked = {"lora_down.weight", "hada_w1_b", "hada_w2_b", "lokr_w1_b", "lokr_w2_b"} & tensors.keys()
    made = {**tensors, **{name: tensors[name][:0] for name in ranked}}
    with pytest.raises(ModelError, match="this model needs numbers in it"):
        load_lora(model, write(tmp_path / "x.safetensors", {f"{stem(LINEAR)}.{k}": v for k, v in made.items()}))


@pytest.mark.parametrize(
    ("shape", "is_number"), [((), True), ((1,), True), ((1, 1), True), ((2,), False), ((0,), False)]
)
def test_an_alpha_is_a_single_number_of_any_shape(
    model: DiffusionModel, tmp_path: Path, shape: tuple[int, ...], is_number: bool
) -> None:
    path = write(tmp_path / "x.safetensors", {**plain(model), f"{stem(LINEAR)}.alpha": torch.full(shape, 2.0)})
    if is_number:
        load_lora(model, path)
        assert factor(model) == 2.0 / 4
    else:
        with pytest.raises(ModelError, match=r"an alpha that is no single number: .*\.alpha"):
            load_lora(model, path)


@pytest.mark.parametrize("kind", [lora, loha, lokr_of_products, whole, dora_of(lora)], ids=lambda kind: kind.__name__)
def test_a_kind_with_a_piece_missing_is_refused(model: DiffusionModel, tmp_path: Path, kind: Kind) -> None:
    tensors, _ = kind(weights_of(model, LINEAR))
    for lost in [key for key in tensors if key not in ("alpha", "dora_scale")]:
        made = {f"{stem(LINEAR)}.{key}": value for key, value in tensors.items() if key != lost}
        if made:
            with pytest.raises(ModelError, match=r"only half|no layer"):
                load_lora(model, write(tmp_path / "x.safetensors", made))


def test_a_huge_product_is_refused_before_it_is_made(model: DiffusionModel, tmp_path: Path) -> None:
    sides = {"lokr_w1": torch.zeros(9000, 9), "lokr_w2": torch.zeros(9000, 9)}
    with pytest.raises(ModelError, match="this model needs"):
        load_lora(model, write(tmp_path / "x.safetensors", {f"{stem(LINEAR)}.{k}": v for k, v in sides.items()}))


def peft_folder(model: DiffusionModel, folder: Path, config: bytes) -> Path:
    folder.mkdir()
    own = lora(weights_of(model, LINEAR))[0]
    names = {"lora_A": own["lora_down.weight"], "lora_B": own["lora_up.weight"]}
    write(
        folder / "adapter_model.safetensors",
        {f"base_model.model.{LINEAR}.{k}.weight": v for k, v in names.items()},
    )
    (folder / "adapter_config.json").write_bytes(config)
    return folder


def factor(model: DiffusionModel) -> float:
    return float(model.unet.get_submodule(LINEAR).scaling["lora_0"])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"r": 4, "lora_alpha": 8}, 2.0),
        ({"lora_alpha": None, "alpha_pattern": None}, 1.0),
        ({}, 1.0),
        ({"lora_alpha": 8, "use_rslora": True}, 4.0),
        ({"lora_alpha": 8, "alpha_pattern": {"to_k": 2}}, 0.5),
        ({"lora_alpha": 8, "alpha_pattern": {"^" + LINEAR.replace(".", "\\."): 2}}, 0.5),
        ({"lora_alpha": 8, "alpha_pattern": {"^to_k": 2, "o_k": 3}}, 2.0),
    ],
    ids=str,
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_folder_of_peft_is_applied_with_its_alpha(
    model: DiffusionModel, tmp_path: Path, config: dict[str, Any], expected: float, encoding: str
) -> None:
    load_lora(model, peft_folder(model, tmp_path / "adapter", json.dumps(config).encode(encoding)))
    assert factor(model) == pytest.approx(expected)


@pytest.mark.parametrize(
    "config",
    [
        b"[]",
        b"{",
        b'{"lora_alpha": "8"}',
        b'{"lora_alpha": [8]}',
        b'{"lora_alpha": NaN}',
        b'{"lora_alpha": 1e999}',
        b'{"alpha_pattern": 3}',
        b'{"alpha_pattern": {"to_k": "x"}}',
        b'{"use_rslora": 1}',
        b'{"a":' * 3000,
        b"\xff\xff",
        b'{"lora_alpha": 1' + b"0" * 6000 + b"}",
    ],
)
def test_settings_that_cannot_be_meant_are_refused_in_a_sentence(
    model: DiffusionModel, tmp_path: Path, config: bytes
) -> None:
    with pytest.raises(ModelError, match=r"adapter_config\.json") as refused:
        load_lora(model, peft_folder(model, tmp_path / "adapter", config))
    assert "\n" not in refused.value.what
    header = {"lora_adapter_metadata": config.decode("latin-1").replace('{"', '{"unet.', 1)}
    path = write(
        tmp_path / "x.safetensors",
        {f"unet.{LINEAR}.lora_A.weight": random(4, 16), f"unet.{LINEAR}.lora_B.weight": random(16, 4)},
        **header,
    )
    with pytest.raises(ModelError, match="lora_adapter_metadata"):
        load_lora(model, path)


def test_a_pattern_that_would_run_for_ever_is_refused_at_once(model: DiffusionModel, tmp_path: Path) -> None:
    config = json.dumps({"alpha_pattern": {"(a|a?)+" * 20 + "$": 2, "(.*)*x": 1}}).encode()
    began = time.monotonic()
    with pytest.raises(ModelError, match="is not the name of layers"):
        load_lora(model, peft_folder(model, tmp_path / "adapter", config))
    assert time.monotonic() - began < 5


def test_a_folder_without_a_lora_is_named(model: DiffusionModel, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no adapter_model\.safetensors"):
        load_lora(model, tmp_path)


def test_the_suffix_is_read_whatever_its_case(model: DiffusionModel, tmp_path: Path) -> None:
    load_lora(model, write(tmp_path / "x.SafeTensors", plain(model)))
    assert load_file(tmp_path / "x.SafeTensors")


def test_tensors_of_any_shape_are_a_change_or_refused_by_shape() -> None:
    """Every set of pieces with a few dimensions changed: nothing else comes out than a change of the layer's shape."""
    dice = random_module.Random(0)
    weights = [torch.randn(16, 8), torch.randn(8, 16, 3, 3), torch.randn(8, 16, 1, 1)]
    made = refused = 0
    for _ in range(600):
        weight, kind = dice.choice(weights), dice.choice(KINDS)
        tensors, _ = kind(weight)
        pieces = {ENDINGS["." + ending]: value for ending, value in tensors.items() if ending != "alpha"}
        for role in dice.sample(sorted(pieces), dice.randrange(len(pieces) + 1)):
            shape = [dice.choice([side, side, 0, 1, 3]) for side in pieces[role].shape]
            shape = shape[: dice.choice([len(shape), len(shape), 1, 0])] + [2] * dice.choice([0, 0, 0, 1])
            pieces[role] = torch.zeros(shape)
        try:
            change = low_rank_change(pieces, 2.0, weight)
        except WrongShapeError:
            refused += 1
        else:
            made += 1
            assert (change.up.flatten(1) @ change.down.flatten(1)).shape == weight.flatten(1).shape
    assert made > 50 < refused
