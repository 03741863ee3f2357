"""A timestep per sample, and the VAE's posterior: the same numbers as the one-timestep verbs of the model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toys import tiny_model

from smoothtool.diffusion.model import DiffusionModel


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_every_sample_is_predicted_at_its_own_time(tmp_path: Path, prediction_type: str) -> None:
    model = tiny_model(tmp_path, prediction_type=prediction_type)
    latents, times = torch.randn(3, 4, 16, 16), [20, 500, 980]
    text = model.encode_prompts(["a cat", "a dog", "red cake"])
    with torch.no_grad():
        together = model.predict_noise_at(latents, torch.tensor(times), text)
        alone = [model.predict_noise(latents[[i]], t, text[[i]]) for i, t in enumerate(times)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


class NoTruthValue(torch.nn.Module):
    """As torch.compile's modules are when what they wrap has no length."""

    def __init__(self, unet: torch.nn.Module) -> None:
        super().__init__()
        self.forward = unet.forward

    def __len__(self) -> int:
        raise TypeError("does not support len()")


def test_a_compiled_unet_can_stand_in(model: DiffusionModel) -> None:
    latents, text, times = torch.randn(1, 4, 16, 16), model.encode_prompts(["a cat"]), torch.tensor([500])
    with torch.no_grad():
        found = model.predict_noise_at(latents, times, text, NoTruthValue(model.unet))
        assert torch.equal(found, model.predict_noise_at(latents, times, text))


def test_the_posterior_mean_is_what_encoding_gives(model: DiffusionModel) -> None:
    pixel_values = torch.rand(2, 3, 32, 32) * 2 - 1
    mean, deviation = model.encode_posterior(pixel_values)
    torch.testing.assert_close(mean, model.encode_images(pixel_values))
    assert bool((deviation > 0).all())
