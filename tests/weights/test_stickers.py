"""The embedded model: an ordinary Stable Diffusion folder that does the paper's job."""

from __future__ import annotations

import json

import pytest
import torch
from diffusers import StableDiffusionPipeline

from smoothtool.diffusion.loading import load_model
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import constant, denoise
from smoothtool.files.pictures.images import load_image, to_pixel_values
from smoothtool.methods.inversion.ddim import ddim_inversion_steps, trajectory_of
from smoothtool.methods.inversion.null_text import adam_solver, null_text_steps
from smoothtool.metrics.reconstruction import psnr_db
from smoothtool.weights.models import STICKERS
from smoothtool.weights.sample_pictures import resolve_picture

STEPS, GUIDANCE = 10, 3.0  # a fifth of the paper's steps, and the model's own guidance
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def stickers() -> DiffusionModel:
    return load_model(STICKERS, "stickers", device="cpu")


def test_the_folder_is_small_enough_to_ship() -> None:
    sizes = [path.stat().st_size for path in STICKERS.rglob("*") if path.is_file()]
    assert sum(sizes) < 40 * MEGABYTE
    assert max(sizes) < 16 * MEGABYTE


def test_its_weights_are_safetensors_alone() -> None:
    assert {path.suffix for path in STICKERS.rglob("*")} <= {"", ".json", ".txt", ".safetensors", ".md", ".png"}


@torch.no_grad()
def test_diffusers_loads_it_and_samples_the_same_picture(stickers: DiffusionModel) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(STICKERS, dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    prompt = "a 3d fox on a blue background"
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    theirs = pipeline(
        prompt,
        num_inference_steps=5,
        guidance_scale=GUIDANCE,
        latents=noise.clone(),
        height=64,
        width=64,
        output_type="latent",
    ).images
    text, null = stickers.encode_prompts([prompt]), stickers.encode_prompts([""])
    *_, ours = denoise(stickers, noise, constant(text), constant(null), 5, GUIDANCE)
    torch.testing.assert_close(ours.latents, theirs, rtol=1e-3, atol=1e-3)


def test_null_text_inversion_comes_nearer_to_the_picture_than_ddim(stickers: DiffusionModel) -> None:
    """The ordering of the paper's table 2, with the caption as source prompt: 33.2, 32.5 and 27.1 dB."""
    picture = to_pixel_values(load_image(resolve_picture("samples:fox")))
    latents = stickers.encode_images(picture)
    text, null = stickers.encode_prompts(["a 3d fox on a sky blue background"]), stickers.encode_prompts([""])
    trajectory = trajectory_of(latents, list(ddim_inversion_steps(stickers, latents, text, STEPS)))
    *_, fitted = null_text_steps(stickers, trajectory, text, null, GUIDANCE, adam_solver())
    *_, plain = denoise(stickers, trajectory.noise, constant(text), constant(null), STEPS, GUIDANCE)
    vae, nti, ddim = (
        float(psnr_db(picture, stickers.decode_latents(z))) for z in (latents, fitted.latents, plain.latents)
    )
    assert vae - 1.0 < nti < vae
    assert ddim < nti - 4.0


def test_every_sample_has_a_caption() -> None:
    folder = resolve_picture("samples:fox").parent
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert {line["file_name"] for line in lines} == {path.name for path in folder.glob("*.png")}
    assert all(line["text"] for line in lines)
