"""FreeMorph: closed forms where there are some, invariants on the tiny model elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from scipy.stats import beta
from torch.testing import assert_close

from smoothtool.diffusion.ddim import add_noise
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import UsageError
from smoothtool.methods.interpolation import freemorph
from smoothtool.methods.interpolation.freemorph import (
    _inversion,
    _mean_of_frames,
    beta_quantiles,
    freemorph_length,
    freemorph_steps,
    slerp_rows,
    through_ends,
    with_shared_detail,
)
from smoothtool.methods.interpolation.slerp import slerp, uniform_ratios
from smoothtool.types import Conditioning

SHAPE = (4, 16, 16)


def noise(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((count, *SHAPE), generator=torch.Generator().manual_seed(seed))


def morph(
    model: DiffusionModel,
    ends: torch.Tensor,
    detail: torch.Tensor,
    prompts: Sequence[str] = ("a cat", "a dog"),
    steps: int = 10,
    frames: int = 3,
) -> list[Any]:
    text, null = model.encode_prompts(list(prompts)), model.encode_prompts([""])
    return list(freemorph_steps(model, ends, text, null, detail, uniform_ratios(frames), steps, 2.0))


def test_one_step_is_too_few(model: DiffusionModel) -> None:
    with pytest.raises(UsageError, match="1 step is too few for freemorph, which takes 80% of them"):
        morph(model, noise(2), noise(1), steps=1)


def test_the_mixing_follows_the_quantiles_of_the_beta_distribution() -> None:
    ratios = [0, 1 / 6, 0.3, 0.5, 0.9, 1]
    assert beta_quantiles(ratios) == pytest.approx(beta.ppf(ratios, 20, 20).tolist(), abs=1e-9)


def test_rows_are_interpolated_each_by_itself() -> None:
    first, last = noise(2)
    mixed = slerp_rows(first, last, 0.3)
    assert_close(mixed[2, 5], slerp(first[2, 5], last[2, 5], 0.3))


def test_rows_without_an_angle_are_interpolated_straight() -> None:
    first, last = torch.zeros(SHAPE), noise(1)[0]
    assert_close(slerp_rows(first, last, 0.25), 0.25 * last)
    assert_close(slerp_rows(last, 2 * last, 0.5), 1.5 * last)


def test_in_betweens_keep_their_low_frequencies_and_share_the_rest() -> None:
    frames, detail = noise(3), noise(1, seed=5)
    mixed, own, shared = (torch.fft.fft2(part) for part in (with_shared_detail(frames, detail), frames, detail))
    frequencies = torch.fft.fftfreq(16, 1 / 16).abs()
    highest = torch.maximum(frequencies[:, None], frequencies[None])
    assert_close(mixed[..., highest < 7], own[..., highest < 7])
    assert_close(mixed[1][:, highest > 7], shared[0][:, highest > 7])
    assert_close(mixed[0], mixed[0].conj().flip(-1, -2).roll((1, 1), (-1, -2)))  # of a real picture


def test_looking_through_both_ends_weighs_two_attentions() -> None:
    query, key, value = torch.randn(3, 3, 2, 5, 4)

    def attended(row: int, end: int, *, own: bool) -> torch.Tensor:
        keys, values = ([part[end]] + ([part[row]] if own else []) for part in (key, value))
        scores = query[row] @ torch.cat(keys, dim=1).transpose(1, 2) / 2
        return scores.softmax(dim=-1) @ torch.cat(values, dim=1)

    for own in (False, True):
        result = through_ends([0.0, 0.3, 1.0], with_own=own)(None, query, key, value)
        for row, share in enumerate([0.0, 0.3, 1.0]):
            expected = (1 - share) * attended(row, 0, own=own) + share * attended(row, 2, own=own)
            assert_close(result[row], expected)


def test_the_mean_of_frames_is_of_attentions_and_not_of_keys() -> None:
    query, key, value = torch.randn(3, 3, 2, 5, 4)
    expected = ((query @ key.transpose(2, 3) / 2).softmax(dim=-1) @ value).mean(dim=0)
    for row in _mean_of_frames(None, query, key, value):
        assert_close(row, expected)


def test_an_inversion_step_is_five_rounds_towards_its_fixed_point(
    model: DiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    slope, pictures = 0.4, noise(2).double()
    monkeypatch.setattr(model, "predict_noise", lambda latents, timestep, text: slope * latents)
    _, alpha_prod, alpha_prod_previous = model.schedule.alpha_pairs(10)[-1]
    kept = (alpha_prod / alpha_prod_previous) ** 0.5
    ratio = slope * ((1 - alpha_prod) ** 0.5 - kept * (1 - alpha_prod_previous) ** 0.5)
    # z <- kept z_s + ratio z from z_s on, a geometric series
    factor = kept * (1 - ratio**5) / (1 - ratio) + ratio**5
    step = next(_inversion(model, pictures, model.encode_prompts(["a cat", "a dog"]), 10))
    assert_close(step.latents, factor * pictures, rtol=1e-12, atol=1e-12)


def test_equal_pictures_come_back_when_the_noise_is_constant_and_the_detail_their_own(
    model: DiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    constant, picture = noise(1, seed=9), noise(1)
    monkeypatch.setattr(model, "predict_noise", lambda latents, timestep, text: constant.expand_as(latents))
    noisy = add_noise(picture, constant, model.schedule.alpha_pairs(10)[2][1])
    start = add_noise(picture, constant, model.schedule.final_alpha_cumprod)
    steps = morph(model, start.repeat(2, 1, 1, 1), noisy, prompts=("a cat", "a cat"))
    assert_close(steps[-1].latents, start.expand(3, *SHAPE), rtol=1e-3, atol=1e-3)


def test_a_morph_run_backwards_gives_the_frames_in_reverse(model: DiffusionModel) -> None:
    ends, detail = noise(2), noise(1, seed=5)
    forth = morph(model, ends, detail, steps=5)
    back = morph(model, ends.flip(0), detail, prompts=("a dog", "a cat"), steps=5)
    assert_close(forth[-1].latents, back[-1].latents.flip(0), rtol=1e-3, atol=1e-3)


def test_attention_is_drawn_together_in_the_published_parts_of_the_way(
    model: DiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, plain = [], type(next(iter(model.unet.attn_processors.values())))
    predict = model.predict_noise

    def spy(latents: torch.Tensor, timestep: int, text: Conditioning) -> torch.Tensor:
        processor = next(iter(model.unet.attn_processors.values()))
        seen.append("plain" if isinstance(processor, plain) else processor.attend.__qualname__.split(".")[0])
        return predict(latents, timestep, text)

    monkeypatch.setattr(model, "predict_noise", spy)
    monkeypatch.setattr(freemorph, "ROUNDS", 1)
    steps = morph(model, noise(2), noise(1))
    assert len(steps) == freemorph_length(10) == 16
    inverting, sampling = seen[:8], seen[8:]
    assert inverting == ["plain"] * 4 + ["_mean_of_frames"] * 2 + ["plain", "through_ends"]
    assert sampling[::2] == ["through_ends"] * 4 + ["plain"] * 4
    assert set(sampling[1::2]) == {"plain"}  # the null half


def test_more_frames_than_one_call_holds_are_refused(model: DiffusionModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "max_batch", 4)
    with pytest.raises(UsageError, match="holds 4 here with both ends, not 5") as refusal:
        morph(model, noise(2), noise(1))
    assert refusal.value.hint == "--frames 2"
