"""ISTD against closed forms on toy decoders, and the same figures whatever the batch, order or selection."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any, NoReturn

import pytest
import torch
from torch.testing import assert_close

from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import ModelError, UsageError
from smoothtool.methods.smoothness import istd
from smoothtool.methods.smoothness.istd import WalkSettings, prompt_noises, prompt_walks
from smoothtool.metrics.sequences import deviation
from smoothtool.types import Conditioning

SHAPE = (4, 16, 16)
SETTINGS = WalkSettings(seed=3, latent_shape=SHAPE, frames=11, num_inference_steps=2, guidance_scale=2.0)
PROMPTS = ["a cat", "a dog on a cake", "a red fox"]


@pytest.fixture
def linear(model: DiffusionModel, monkeypatch: pytest.MonkeyPatch) -> DiffusionModel:
    """A generator that is an isometry up to scale: the UNet predicts no noise, the decoder reshapes 4 channels to 3."""
    monkeypatch.setattr(model, "predict_noise", lambda latents, timestep, text: torch.zeros_like(latents))
    monkeypatch.setattr(
        model, "decode_latents", lambda latents: latents.reshape(len(latents), 1, 16, 64).repeat(1, 3, 1, 1)
    )
    return model


def image_scale(model: DiffusionModel) -> float:
    """What two steps without noise make of unit latents, in [0, 1] pixels of the toy decoder."""
    pairs = model.schedule.alpha_pairs(2)
    gain = math.prod((after / before) ** 0.5 for _, before, after in pairs)
    return gain * math.sqrt(3) / 2


def walks(
    model: DiffusionModel, prompts: list[str] = PROMPTS, settings: WalkSettings = SETTINGS, batch_size: int = 32
) -> list[Any]:
    return list(prompt_walks(model, prompts, settings, batch_size))


def test_an_isometry_walked_between_equally_long_noises_has_no_deviation(
    linear: DiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = torch.zeros(2, *SHAPE)
    ends[0, 0], ends[1, 1] = 1.0, 1.0
    monkeypatch.setattr(istd, "prompt_noises", lambda *_: ends)
    for walk in walks(linear):
        result = deviation(walk.pixel_values)
        chord = 2 * math.sin(math.pi / 40) * 16 * image_scale(linear)
        assert result.mean == pytest.approx(chord, rel=1e-4)
        assert result.population_std < 1e-4 * chord


def test_a_walk_between_noises_of_other_lengths_has_its_computed_deviation(linear: DiffusionModel) -> None:
    walk = walks(linear)[1]
    a, b = (end.double().flatten() for end in prompt_noises(3, PROMPTS[1], SHAPE))
    angle = math.acos(float(a @ b / (a.norm() * b.norm())))
    weights = [(math.sin((1 - i / 10) * angle), math.sin(i / 10 * angle)) for i in range(11)]
    steps = [((q[0] - p[0]) * a + (q[1] - p[1]) * b) / math.sin(angle) for p, q in pairwise(weights)]
    expected = torch.stack([step.norm() for step in steps]) * image_scale(linear)
    result = deviation(walk.pixel_values)
    assert_close(torch.tensor(result.distances, dtype=torch.float64), expected, rtol=1e-5, atol=0)
    assert result.population_std == pytest.approx(float(expected.std(correction=0)), rel=1e-2)
    assert result.population_std > 1e-3


@pytest.mark.parametrize("batch_size", [1, 4, 11])
def test_the_batch_size_does_not_change_a_walk(model: DiffusionModel, batch_size: int) -> None:
    for walk, whole in zip(walks(model, batch_size=batch_size), walks(model, batch_size=33), strict=True):
        assert walk.prompt == whole.prompt
        assert_close(walk.pixel_values, whole.pixel_values, rtol=0, atol=1e-5)


def test_order_and_selection_of_prompts_do_not_change_a_walk(model: DiffusionModel) -> None:
    alone = walks(model, prompts=PROMPTS[2:], batch_size=11)[0]
    among = walks(model, prompts=PROMPTS[::-1], batch_size=11)[0]
    assert torch.equal(alone.pixel_values, among.pixel_values)


def test_seed_and_prompt_decide_the_noise() -> None:
    noise = prompt_noises(0, "a cat", SHAPE)
    assert torch.equal(noise, prompt_noises(0, "a cat", SHAPE))
    assert not torch.equal(noise, prompt_noises(1, "a cat", SHAPE))
    assert not torch.equal(noise, prompt_noises(0, "a dog", SHAPE))
    assert not torch.equal(noise[0], noise[1])


def test_the_ends_of_a_walk_are_the_pictures_of_its_noises(model: DiffusionModel) -> None:
    from smoothtool.diffusion.sampling import constant, denoise

    walk = walks(model, prompts=PROMPTS[:1])[0]
    text, null = constant(model.encode_prompts(PROMPTS[:1])), constant(model.encode_prompts([""]))
    *_, last = denoise(model, prompt_noises(3, PROMPTS[0], SHAPE), text, null, 2, 2.0)
    assert_close(walk.pixel_values[[0, -1]], model.decode_latents(last.latents), rtol=0, atol=1e-5)


def test_a_nan_picture_spoils_its_own_walk_only(model: DiffusionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    spoilt = model.encode_prompts([PROMPTS[1]]).prompt_embeds[0]
    predict = model.predict_noise

    def predict_noise(latents: torch.Tensor, timestep: int, text: Conditioning) -> torch.Tensor:
        broken = (text.prompt_embeds == spoilt).all(dim=(1, 2))
        return predict(latents, timestep, text).masked_fill(broken.view(-1, 1, 1, 1), torch.nan)

    monkeypatch.setattr(model, "predict_noise", predict_noise)
    finite = [bool(walk.pixel_values.isfinite().all()) for walk in walks(model)]
    assert finite == [True, False, True]
    with pytest.raises(ModelError):
        model.decode_latents(torch.full((1, *SHAPE), torch.nan))


def test_no_prompts_and_single_frames_are_refused(model: DiffusionModel) -> None:
    with pytest.raises(UsageError, match="no prompts"):
        walks(model, prompts=[])
    with pytest.raises(UsageError, match="1 frames"):
        walks(model, settings=WalkSettings(0, SHAPE, frames=1))


def test_a_batch_that_does_not_fit_is_halved_until_it_does(
    linear: DiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, sizes, predict = walks(linear), [], linear.predict_noise

    def small(latents: torch.Tensor, timestep: int, text: Conditioning) -> torch.Tensor:
        sizes.append(len(latents))
        if len(latents) > 16:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        return predict(latents, timestep, text)

    monkeypatch.setattr(linear, "predict_noise", small)
    halved = walks(linear, batch_size=4096)
    assert max(sizes[-6:]) <= 16
    assert [walk.prompt for walk in halved] == PROMPTS
    for one, other in zip(whole, halved, strict=True):
        assert_close(one.pixel_values, other.pixel_values)


def test_one_picture_that_does_not_fit_is_told(linear: DiffusionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> NoReturn:
        raise MemoryError

    monkeypatch.setattr(linear, "predict_noise", full)
    with pytest.raises(MemoryError):
        walks(linear, batch_size=3)
