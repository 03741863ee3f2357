"""Stable Diffusion XL behind the same verbs, beside diffusers' own pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionXLPipeline
from toys import tiny_xl_model

from smoothtool.diffusion.loading import load_model
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import constant, denoise
from smoothtool.diffusion.saving import save_model
from smoothtool.diffusion.text import added_conditions
from smoothtool.errors import ModelError
from smoothtool.files.storage.writing import write_json_atomic

STEPS, GUIDANCE = 10, 7.5


@pytest.fixture
def xl(tmp_path: Path) -> DiffusionModel:
    return tiny_xl_model(tmp_path / "tokenizer")


def pipeline(model: DiffusionModel) -> StableDiffusionXLPipeline:
    """diffusers' pipeline of the same parts."""
    scheduler = DDIMScheduler.from_config(model.schedule.config)
    text = {**model.text.encoders, **model.text.tokenizers}
    pipe = StableDiffusionXLPipeline(
        vae=model.vae,
        unet=model.unet,
        scheduler=scheduler,
        add_watermarker=False,
        force_zeros_for_empty_prompt=model.text.zeros_for_null,
        **text,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("negative", ["", "a blue dog"])
@pytest.mark.parametrize("zeros", [True, False])
@torch.no_grad()
def test_text_and_null_are_those_of_diffusers(tmp_path: Path, zeros: bool, negative: str) -> None:
    model = tiny_xl_model(tmp_path, zeros_for_null=zeros)
    embeds, null_embeds, pooled, null_pooled = pipeline(model).encode_prompt(
        "a red cat", negative_prompt=negative or None
    )
    text, null = model.encode_prompts(["a red cat"]), model.encode_null(negative)
    torch.testing.assert_close(text.prompt_embeds, embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(text.pooled_prompt_embeds, pooled, rtol=0, atol=1e-5)
    torch.testing.assert_close(null.prompt_embeds, null_embeds, rtol=0, atol=1e-5)
    torch.testing.assert_close(null.pooled_prompt_embeds, null_pooled, rtol=0, atol=1e-5)
    assert bool(null.prompt_embeds.any()) == bool(negative or not zeros)


def test_time_ids_are_those_of_diffusers(xl: DiffusionModel) -> None:
    pipe = pipeline(xl)
    theirs = pipe._get_add_time_ids((48, 32), (0, 0), (48, 32), torch.float32, text_encoder_projection_dim=12)
    text = xl.encode_prompts(["a cat", "a dog"])
    added = added_conditions(text, torch.zeros(2, 4, 24, 16), xl.vae_scale_factor, torch.float32)
    assert added is not None
    assert added["time_ids"].tolist() == theirs.tolist() * 2


@pytest.mark.parametrize("zeros", [True, False])
@torch.no_grad()
def test_ten_steps_end_where_diffusers_ends(tmp_path: Path, zeros: bool) -> None:
    model = tiny_xl_model(tmp_path, zeros_for_null=zeros)
    noise = torch.randn((1, 4, 24, 16), generator=torch.Generator().manual_seed(0))
    theirs = pipeline(model)(
        "a red cat",
        height=48,
        width=32,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        latents=noise.clone(),
        output_type="latent",
    ).images
    text, null = model.encode_prompts(["a red cat"]), model.encode_null()
    *_, last = denoise(model, noise, constant(text), constant(null), STEPS, GUIDANCE)
    torch.testing.assert_close(last.latents, theirs, rtol=1e-5, atol=1e-5)


def test_a_saved_folder_is_loaded_by_smoothtool_and_by_diffusers(xl: DiffusionModel, tmp_path: Path) -> None:
    save_model(xl, tmp_path / "model", write_json_atomic)
    again = load_model(tmp_path / "model", "again", device="cpu")
    theirs = StableDiffusionXLPipeline.from_pretrained(tmp_path / "model", local_files_only=True)
    assert again.fingerprint == xl.fingerprint
    assert again.text.tokenizers["tokenizer_2"].pad_token == "!"
    expected = xl.encode_prompts(["a red cat"])
    for found in (again.encode_prompts(["a red cat"]).prompt_embeds, theirs.encode_prompt("a red cat")[0]):
        torch.testing.assert_close(found, expected.prompt_embeds, rtol=0, atol=1e-5)


def test_the_null_is_part_of_what_tells_models_apart(tmp_path: Path) -> None:
    fingerprints = {tiny_xl_model(tmp_path, zeros_for_null=zeros).fingerprint for zeros in (True, False)}
    assert len(fingerprints) == 2


@pytest.mark.parametrize(
    ("lost", "what"), [("tokenizer_2", "no second tokenizer"), ("text_encoder_2", "no second text encoder")]
)
def test_a_missing_second_part_is_named(xl: DiffusionModel, tmp_path: Path, lost: str, what: str) -> None:
    save_model(xl, tmp_path / "model", write_json_atomic)
    (tmp_path / "model" / lost).rename(tmp_path / lost)
    with pytest.raises(ModelError, match=what):
        load_model(tmp_path / "model", "xl", device="cpu")


def test_a_vae_that_asks_for_float32_gets_it(xl: DiffusionModel, tmp_path: Path) -> None:
    save_model(xl, tmp_path / "model", write_json_atomic)
    config = tmp_path / "model" / "vae" / "config.json"
    for said, expected in ((True, torch.float32), (False, torch.float16)):
        config.write_text(json.dumps({**json.loads(config.read_text()), "force_upcast": said}))
        model = load_model(tmp_path / "model", "xl", device="cpu", dtype="float16")
        assert (model.unet.dtype, model.vae.dtype) == (torch.float16, expected)
