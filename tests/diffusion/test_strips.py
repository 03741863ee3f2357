"""The VAE strip by strip gives what it gives at once."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import AutoencoderKL

from smoothtool.diffusion import strips
from smoothtool.diffusion.loading import load_model
from smoothtool.diffusion.strips import work_in_strips
from smoothtool.weights.models import STICKERS


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    """SD's blocks in small: a shortcut on the way down and up, two resolutions of each kind."""
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 3,
        norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        sample_size=64,
    ).eval()


@pytest.fixture
def stripped(vae: AutoencoderKL, monkeypatch: pytest.MonkeyPatch) -> AutoencoderKL:
    monkeypatch.setattr(strips, "STRIP_NUMBERS", 2048)  # two to eight rows
    own = copy.deepcopy(vae)
    work_in_strips(own)
    return own


@pytest.mark.parametrize(("height", "width"), [(64, 48), (44, 72)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_strips_encode_and_decode_as_the_whole_does(
    vae: AutoencoderKL, stripped: AutoencoderKL, height: int, width: int, dtype: torch.dtype
) -> None:
    vae, stripped = vae.to(dtype), stripped.to(dtype)
    torch.manual_seed(1)
    picture = torch.randn(2, 3, height, width, dtype=dtype)
    with torch.no_grad():
        latents = vae.encode(picture).latent_dist.mean
        torch.testing.assert_close(stripped.encode(picture).latent_dist.mean, latents, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(stripped.decode(latents).sample, vae.decode(latents).sample, rtol=1e-5, atol=1e-5)
    vae.float()


def test_gradients_pass_as_ever(vae: AutoencoderKL, stripped: AutoencoderKL) -> None:
    torch.manual_seed(2)
    latents = torch.randn(1, 4, 16, 16, requires_grad=True)
    expected, found = (torch.autograd.grad(one.decode(latents).sample.sum(), latents)[0] for one in (vae, stripped))
    assert torch.equal(expected, found)


def test_the_embedded_model_draws_the_same_picture_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "STRIP_NUMBERS", 2**16)
    model = load_model(STICKERS, "stickers", device="cpu")
    torch.manual_seed(3)
    latents = torch.randn(1, *model.noise_shape(None))
    expected = model.decode_latents(latents)
    work_in_strips(model.vae)
    found = model.decode_latents(latents)
    assert float((found - expected).abs().max()) < 1e-4  # a grey level is 8e-3
    torch.testing.assert_close(model.encode_images(expected), model.encode_images(found), rtol=0, atol=1e-3)
