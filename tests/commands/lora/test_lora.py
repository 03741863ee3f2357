"""LoRAs out of the house: converted, merged, and pushed with a card."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file

from smoothtool.cli.app import main
from smoothtool.commands.lora.convert import convert
from smoothtool.commands.lora.push import Push, prepared, upload
from smoothtool.diffusion.loading import load_model
from smoothtool.diffusion.lora import load_lora, remove_lora
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import InputError, ModelError, UsageError
from smoothtool.yaml12 import read_yaml

LAYER = "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
TEXT_LAYER = "encoder.layers.0.self_attn.q_proj"
ABOUT = {"lambda": "2.5", "steps": "70", "base_model": "sd15", "note": "by <b>me</b>"}


def write_lora(path: Path, alpha: float = 6.0) -> Path:
    """In kohya's format, of rank 3, on a layer of the UNet and one of the text encoder."""
    torch.manual_seed(5)
    tensors = {}
    for stem in (f"lora_unet_{LAYER}", f"lora_te_text_model_{TEXT_LAYER}"):
        stem = stem.replace(".", "_")
        tensors |= {f"{stem}.lora_down.weight": torch.randn(3, 16), f"{stem}.lora_up.weight": torch.randn(16, 3)}
        tensors[f"{stem}.alpha"] = torch.tensor(alpha)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata=ABOUT)
    return path


def predict(model: DiffusionModel) -> torch.Tensor:
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.predict_noise(latents, 500, model.encode_prompts(["a cat"]))


def with_lora(model: DiffusionModel, path: Path) -> torch.Tensor:
    info = load_lora(model, path)
    found = predict(model)
    remove_lora(model, info["adapter"])
    return found


@pytest.mark.parametrize("dialect", ["diffusers", "kohya"])
def test_a_converted_lora_predicts_the_same_noise_times_the_scale_asked_for(
    model: DiffusionModel, tmp_path: Path, dialect: str
) -> None:
    source = write_lora(tmp_path / "a.safetensors")
    expected = with_lora(model, source)
    made = convert(str(source), tmp_path / "b.safetensors", model, dialect, force=False)
    torch.testing.assert_close(with_lora(model, made), expected, atol=1e-5, rtol=1e-5)
    half = convert(f"{source}:0.5", tmp_path / "half.safetensors", model, dialect, force=False)
    load_lora(model, half)
    load_lora(model, half)
    torch.testing.assert_close(predict(model), expected, atol=1e-5, rtol=1e-5)


def test_there_and_back_keeps_what_the_trainer_wrote(model: DiffusionModel, tmp_path: Path) -> None:
    first = convert(
        str(write_lora(tmp_path / "a.safetensors")), tmp_path / "b.safetensors", model, "diffusers", force=False
    )
    convert(str(first), tmp_path / "c.safetensors", model, "kohya", force=False)
    assert load_file(tmp_path / "c.safetensors").keys() == load_file(tmp_path / "a.safetensors").keys()
    from smoothtool.readers.tensors import read_header

    assert ABOUT.items() <= read_header(tmp_path / "c.safetensors").metadata.items()


def test_nothing_is_replaced_unless_asked(model: DiffusionModel, tmp_path: Path) -> None:
    source = write_lora(tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match="there already"):
        convert(str(source), source, model, "kohya", force=False)
    with pytest.raises(UsageError, match="end in"):
        convert(str(source), tmp_path / "b.bin", model, "kohya", force=False)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    return int(stopped.value.code or 0), *capsys.readouterr()


def test_a_merged_folder_is_the_model_with_its_lora(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, target = write_lora(tmp_path / "a.safetensors"), tmp_path / "merged"
    code, out, err = run(
        capsys, "lora", "merge", str(target), "--lora", f"{source}:0.5", "--model", str(tiny), "--dtype", "float32"
    )
    assert (code, out) == (0, f"{target}\n"), err
    base = load_model(tiny, "tiny", device="cpu")
    load_lora(base, source, 0.5)
    merged = load_model(target, "merged", device="cpu")
    torch.testing.assert_close(predict(merged), predict(base), atol=1e-5, rtol=1e-5)
    code, out, err = run(capsys, "lora", "merge", str(target), "--lora", str(source), "--model", str(tiny))
    assert (code, out) == (2, "")
    assert "not empty" in err


def test_stable_diffusion_xl_is_merged_in_all_three_parts_and_read_by_diffusers(
    tiny_xl: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = {
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k": (40, 16),
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (16, 16),
        "lora_te2_text_model_encoder_layers_0_self_attn_q_proj": (24, 24),
    }
    torch.manual_seed(5)
    tensors = {}
    for stem, (taken, given) in layers.items():
        tensors |= {f"{stem}.lora_down.weight": torch.randn(3, taken), f"{stem}.lora_up.weight": torch.randn(given, 3)}
    source, target = tmp_path / "xl.safetensors", tmp_path / "merged"
    save_file(tensors, source)
    named = ("--lora", f"{source}:0.5", "--model", str(tiny_xl), "--dtype", "float32")
    code, out, err = run(capsys, "lora", "merge", str(target), *named)
    assert (code, out) == (0, f"{target}\n"), err
    plain, base, merged = (load_model(path, "xl", device="cpu") for path in (tiny_xl, tiny_xl, target))
    load_lora(base, source, 0.5)
    torch.testing.assert_close(predict(merged), predict(base), atol=1e-5, rtol=1e-5)
    texts = [model.encode_prompts(["a cat"]) for model in (plain, base, merged)]
    torch.testing.assert_close(texts[2].prompt_embeds, texts[1].prompt_embeds, atol=1e-5, rtol=1e-5)
    for part in (slice(0, 16), slice(16, None)):
        assert not torch.allclose(texts[2].prompt_embeds[..., part], texts[0].prompt_embeds[..., part])
    theirs = StableDiffusionXLPipeline.from_pretrained(target, local_files_only=True)
    torch.testing.assert_close(theirs.encode_prompt("a cat")[0], texts[2].prompt_embeds, atol=1e-5, rtol=1e-5)


def test_a_folder_is_not_merged_into_a_single_file(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_lora(tmp_path / "a.safetensors")
    code, _, err = run(
        capsys, "lora", "merge", str(tmp_path / "m.safetensors"), "--lora", str(source), "--model", str(tiny)
    )
    assert code == 2
    assert "is merged into a folder" in err


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """The folder of a training: LoRA, twin and a sheet of walks."""
    folder = tmp_path / "smooth"
    write_lora(folder / "smooth-lora.safetensors")
    write_lora(folder / "smooth-lora-kohya.safetensors")
    (folder / "samples").mkdir()
    (folder / "samples" / "step-00000070.png").write_bytes(b"the newest walk")
    (folder / "samples" / "step-00000007.png").write_bytes(b"an older walk")
    return folder


@pytest.fixture
def istd(tmp_path: Path) -> Path:
    folder = tmp_path / "istd"
    folder.mkdir()
    figures = {
        "istd": {"mean": 3.02, "low": 2.9, "high": 3.1, "count": 30},
        "compared": {"istd": {"mean": 2.25, "low": 2.1, "high": 2.4, "count": 30}},
        "definition": {"std": "population", "pixel_range": "0..1"},
    }
    (folder / "report.json").write_text(json.dumps({"command": "istd", "figures": figures}))
    return folder


def test_the_card_says_base_model_lambda_rank_and_smoothness_and_shows_a_walk(training: Path, istd: Path) -> None:
    with prepared(Push(str(training), "me/smooth", istd=istd, licence="openrail")) as folder:
        names = sorted(path.name for path in folder.iterdir())
        text = (folder / "README.md").read_text("utf-8")
        walk = (folder / "walk.png").read_bytes()
    assert names == ["README.md", "smooth-lora-kohya.safetensors", "smooth-lora.safetensors", "walk.png"]
    assert walk == b"the newest walk"
    _, front, body = text.split("---\n", 2)
    facts = read_yaml(front, "card").value
    assert facts["base_model"] == "stable-diffusion-v1-5/stable-diffusion-v1-5"
    assert facts["license"] == "openrail"
    for words in ("2.5", "rank", "3.02", "2.25", "with this LoRA", "(walk.png)", "ComfyUI"):
        assert words in body


def test_smoothness_that_nobody_measured_is_not_on_the_card(training: Path) -> None:
    with prepared(Push(str(training), "me/smooth")) as folder:
        assert "Not measured." in (folder / "README.md").read_text("utf-8")


def test_what_is_wrong_is_told_before_anything_leaves_the_machine(training: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no name of a repository"), prepared(Push(str(training), "smooth")):
        pass
    with pytest.raises(InputError, match=r"report\.json"), prepared(Push(str(training), "a/b", istd=tmp_path)):
        pass
    with pytest.raises(ModelError, match="no such LoRA"), prepared(Push(str(tmp_path / "none"), "a/b")):
        pass


def test_pushing_makes_the_repository_and_uploads_the_folder(
    training: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Any]] = []

    def upload_folder(api: HfApi, *, repo_id: str, folder_path: str, commit_message: str) -> SimpleNamespace:
        asked.append((repo_id, sorted(path.name for path in Path(folder_path).iterdir())))
        return SimpleNamespace(repo_url="https://hub/me/smooth")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", lambda api, name, **options: asked.append((name, options)))
    monkeypatch.setattr("huggingface_hub.HfApi.upload_folder", upload_folder)
    code, out, _ = run(capsys, "lora", "push", str(training), "me/smooth", "--private")
    assert (code, out) == (0, "https://hub/me/smooth\n")
    assert asked[0] == ("me/smooth", {"private": True, "exist_ok": True})
    assert "README.md" in asked[1][1]


def test_a_refusal_of_the_hub_is_a_sentence_without_the_token(
    training: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError("401 for Bearer hf_abcDEF123\nmore")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", refuse)
    with pytest.raises(ModelError, match="nothing was pushed") as caught:
        upload(Push(str(training), "me/smooth"), tmp_path)
    assert "abcDEF123" not in str(caught.value)


def test_the_files_can_be_kept_here_instead(training: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "lora", "push", str(training), "me/smooth", "-o", str(tmp_path / "out"))
    assert (code, out) == (0, f"{tmp_path / 'out' / 'README.md'}\n")
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_info_says_what_a_lora_is(training: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = json.loads(run(capsys, "lora", "info", str(training / "smooth-lora-kohya.safetensors"), "--json")[1])
    assert (facts["format"], facts["rank"], facts["layers"]) == ("kohya", "3", 2)
    assert facts["training"]["lambda"] == "2.5"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nowhere", "error: nowhere: there is no such LoRA\ntry: check the path, or a LoRA by its name: smooth-sd15\n"),
        ("smooth-sd1", "error: smooth-sd1: there is no such LoRA\ntry: did you mean: smooth-sd15\n"),
        ("stickers", "error: stickers: is no LoRA\ntry: smoothtool models info stickers, for a model\n"),
        (__file__, f"error: {__file__}: is no LoRA\ntry: smoothtool models info {__file__}, for a model\n"),
    ],
    ids=["nothing", "nearly a name", "a model", "another file"],
)
def test_info_points_from_what_is_no_lora_to_loras(name: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "lora", "info", name) == (4, "", words)
