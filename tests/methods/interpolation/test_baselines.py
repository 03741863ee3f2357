"""The interpolation baselines: closed forms where there are some, invariants on the tiny model elsewhere."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from smoothtool.diffusion.ddim import add_noise, ddim_step
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.errors import UsageError
from smoothtool.methods.interpolation import anid
from smoothtool.methods.interpolation.anid import anid_steps, noise_steps, noised_ends, with_midpoints
from smoothtool.methods.interpolation.attention import attention_between_ends, attention_walk_steps
from smoothtool.methods.interpolation.rescheduling import adain, rescheduled_ratios
from smoothtool.methods.interpolation.slerp import slerp, uniform_ratios
from smoothtool.methods.interpolation.vae import vae_frames
from smoothtool.methods.interpolation.walk import walk_starts, walk_steps

SHAPE = (4, 16, 16)


def noise(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn((count, *SHAPE), generator=torch.Generator().manual_seed(seed))


def test_vae_frames_lie_on_the_straight_line() -> None:
    ends = noise(3)
    frames = vae_frames(ends, [0.25, 0.5])
    assert_close(frames[0], 0.75 * ends[0] + 0.25 * ends[1])
    assert_close(frames[3], 0.5 * ends[1] + 0.5 * ends[2])
    assert len(frames) == 4


def test_anid_noise_falls_linearly_from_half_to_a_quarter_of_the_steps() -> None:
    assert noise_steps(3, 200) == [100, 75, 50]
    assert noise_steps(3, 50) == [25, 18, 12]  # rounded down, as numpy.linspace(12, 25, 3) cut to whole numbers


def test_anids_three_frames_begin_at_a_quarter_of_the_steps() -> None:
    assert noise_steps(1, 50) == [12]
    with pytest.raises(UsageError, match="too few for 4 levels"):
        noise_steps(4, 4)


def test_midpoints_are_put_between_the_frames_and_the_ends_are_left_out() -> None:
    frames = noise(3)
    mixed = with_midpoints(frames)
    assert len(mixed) == 3
    assert_close(mixed[0], slerp(frames[0], frames[1], 0.5))
    assert torch.equal(mixed[1], frames[1])
    assert_close(mixed[2], slerp(frames[1], frames[2], 0.5))


def test_old_middles_are_interpolated_anew_between_their_new_neighbours() -> None:
    frames = noise(3)
    mixed = with_midpoints(frames, anew=True)
    assert_close(mixed[[0, 2]], with_midpoints(frames)[[0, 2]])
    assert_close(mixed[1], slerp(mixed[0], mixed[2], 0.5))
    assert_close(with_midpoints(frames[:2], anew=True), with_midpoints(frames[:2]))  # the first level has none


def test_anid_interpolates_anew_at_levels_two_and_three_and_no_deeper(
    model: DiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(anid, "with_midpoints", lambda frames, anew: seen.append(anew) or with_midpoints(frames))
    run_anid(model, noise(2), levels=4, steps=16)
    assert seen == [False, True, True, False]


def test_every_levels_noise_grows_from_the_one_before_by_a_fresh_increment() -> None:
    """The forward process from level s to the noisier t: scaled by a_t / a_s, what is missing in variance is new."""
    pictures, increments, alphas = noise(2), noise(3, seed=1), [0.3, 0.5, 0.8]
    found = noised_ends(pictures, increments, alphas)
    wanted, a_s, sigma_s = pictures, 1.0, 0.0
    for level, alpha in zip((2, 1, 0), reversed(alphas), strict=True):
        a_t, sigma_t = alpha**0.5, (1 - alpha) ** 0.5
        wanted = a_t / a_s * wanted + (sigma_t**2 - (a_t / a_s * sigma_s) ** 2) ** 0.5 * increments[2 - level]
        assert_close(found[level], wanted)
        a_s, sigma_s = a_t, sigma_t
    shared = [frame - alpha**0.5 * pictures for frame, alpha in zip(found, alphas, strict=True)]
    for both in shared:
        assert_close(both[0], both[1], rtol=1e-4, atol=1e-5)  # the same noise for both pictures


def run_anid(
    model: DiffusionModel,
    ends: torch.Tensor,
    levels: int = 2,
    steps: int = 8,
    prompts: Sequence[str] = ("a cat", "a dog"),
) -> list[Any]:
    text, null = model.encode_prompts(list(prompts)), model.encode_prompts([""])
    return list(anid_steps(model, ends, text, null, noise(levels, seed=9), levels, steps, 2.0))


def test_anid_gives_all_frames_between_the_ends_after_half_of_the_steps(model: DiffusionModel) -> None:
    steps = run_anid(model, noise(2))
    assert [(step.level, step.step_index, len(step.latents)) for step in steps] == [
        (1, 4, 1),
        (1, 5, 1),
        (2, 6, 3),
        (2, 7, 3),
    ]


def test_anids_middle_of_equal_pictures_is_that_picture_when_the_noise_is_predicted_exactly(
    model: DiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = noise(1, seed=9)
    monkeypatch.setattr(model, "predict_noise", lambda latents, timestep, text: shared.expand_as(latents))
    picture = noise(1)
    final = run_anid(model, picture.repeat(2, 1, 1, 1), levels=1, prompts=("a cat", "a cat"))[-1].latents
    end = model.schedule.final_alpha_cumprod
    assert_close(final, add_noise(picture, shared, end), rtol=1e-4, atol=1e-4)


def test_anid_run_backwards_gives_the_frames_in_reverse(model: DiffusionModel) -> None:
    ends = noise(2)
    forth, back = run_anid(model, ends), run_anid(model, ends.flip(0), prompts=("a dog", "a cat"))
    assert_close(forth[-1].latents, back[-1].latents.flip(0), rtol=1e-4, atol=1e-4)


def predict(model: DiffusionModel, latents: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    with torch.no_grad():
        return model.predict_noise(latents, 501, model.encode_prompts(prompts))


def test_interpolated_attention_leaves_the_ends_as_they_are(model: DiffusionModel) -> None:
    latents, prompts = noise(3), ["a cat", "a cake", "a dog"]
    plain = predict(model, latents, prompts)
    with attention_between_ends(model.unet, [0.0, 0.5, 1.0], halves=1):
        between = predict(model, latents, prompts)
    assert_close(between[[0, 2]], plain[[0, 2]], rtol=1e-4, atol=1e-5)
    assert (between[1] - plain[1]).abs().max() > 1e-3
    assert torch.equal(predict(model, latents, prompts), plain)


def test_interpolated_attention_keeps_null_and_text_rows_apart(model: DiffusionModel) -> None:
    latents, prompts = noise(3), ["a cat", "a cake", "a dog"]
    with attention_between_ends(model.unet, [0.0, 0.5, 1.0], halves=1):
        null, text = predict(model, latents, [""] * 3), predict(model, latents, prompts)
    with attention_between_ends(model.unet, [0.0, 0.5, 1.0], halves=2):
        both = predict(model, torch.cat([latents, latents]), [""] * 3 + prompts)
    assert_close(both, torch.cat([null, text]), rtol=1e-4, atol=1e-5)


def test_null_rows_attend_as_ever_where_only_the_text_half_is_interpolated(model: DiffusionModel) -> None:
    latents, prompts = noise(3), ["a cat", "a cake", "a dog"]
    plain = predict(model, latents, [""] * 3)
    with attention_between_ends(model.unet, [0.0, 0.5, 1.0], halves=1):
        text = predict(model, latents, prompts)
    with attention_between_ends(model.unet, [0.0, 0.5, 1.0], halves=2, text_only=True):
        both = predict(model, torch.cat([latents, latents]), [""] * 3 + prompts)
    assert_close(both, torch.cat([plain, text]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("everywhere", "interpolated"), [(False, 2), (True, 5)])
def test_attention_is_interpolated_in_the_first_half_of_the_steps_unless_everywhere(
    model: DiffusionModel, monkeypatch: pytest.MonkeyPatch, everywhere: bool, interpolated: int
) -> None:
    """Two of five steps: the program rounds down. Written with two calls a step, as the program has them."""
    text, null = model.encode_prompts(["a cat", "a dog"]), model.encode_prompts([""])
    ends, weight = noise(2), 3.0
    steps = list(attention_walk_steps(model, ends, text, null, None, [0.5], 5, weight, everywhere=everywhere))
    middle = text.prompt_embeds.mean(dim=0, keepdim=True)
    embeds = text.with_embeds(torch.cat([text.prompt_embeds[:1], middle, text.prompt_embeds[1:]]))
    latents = torch.stack([ends[0], slerp(ends[0], ends[1], 0.5), ends[1]])
    for index, (t, alpha_from, alpha_to) in enumerate(model.schedule.alpha_pairs(5)):
        between = attention_between_ends(model.unet, [0.0, 0.5, 1.0], halves=1)
        with torch.no_grad(), between if index < interpolated else nullcontext():
            noise_text = model.predict_noise(latents, t, embeds)
        both = attention_between_ends(model.unet, [0.0, 0.5, 1.0], halves=1) if everywhere else nullcontext()
        with torch.no_grad(), both:
            noise_null = model.predict_noise(latents, t, null.expand(3))
        latents = ddim_step(latents, noise_null + weight * (noise_text - noise_null), alpha_from, alpha_to)
        assert_close(steps[index].latents, latents[[1]], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_the_attention_walk_between_equal_ends_is_the_plain_walk(model: DiffusionModel, guidance_scale: float) -> None:
    ends = noise(1).repeat(2, 1, 1, 1)
    text, null = model.encode_prompts(["a cat", "a cat"]), model.encode_prompts([""])
    arguments = (model, ends, text, null, None, uniform_ratios(2), 2, guidance_scale)
    *_, plain = walk_steps(*arguments)
    *_, between = attention_walk_steps(*arguments)
    assert_close(between.latents, plain.latents, rtol=1e-4, atol=1e-4)


def test_an_attention_walk_of_more_frames_than_fit_one_call_is_the_same_walk(
    model: DiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, null = model.encode_prompts(["a cat", "a dog"]), model.encode_prompts([""])
    arguments = (model, noise(2), text, null, None, uniform_ratios(5), 2, 3.0)
    *_, whole = attention_walk_steps(*arguments)
    monkeypatch.setattr(model, "max_batch", 8)
    *_, chunked = attention_walk_steps(*arguments)
    assert chunked.latents.shape == whole.latents.shape
    assert_close(chunked.latents, whole.latents, rtol=1e-4, atol=1e-4)


def test_between_two_steps_of_an_attention_walk_the_unet_is_as_it_was(model: DiffusionModel) -> None:
    before = dict(model.unet.attn_processors)
    text, null = model.encode_prompts(["a cat", "a dog"]), model.encode_prompts([""])
    walk = attention_walk_steps(model, noise(2), text, null, None, uniform_ratios(2), 2, 3.0)
    next(walk)
    assert dict(model.unet.attn_processors) == before


def test_rescheduling_a_squared_path_takes_the_square_root() -> None:
    ratios = [index / 200 for index in range(201)]
    distances = [(b**2 - a**2) for a, b in pairwise(ratios)]
    assert rescheduled_ratios(ratios, distances, 9) == pytest.approx(
        [math.sqrt(j / 10) for j in range(1, 10)], abs=1e-3
    )


def test_an_even_path_keeps_its_ratios_and_so_does_one_that_stands_still() -> None:
    ratios = [0, 0.25, 0.5, 0.75, 1]
    for distances in ([2.0] * 4, [0.0] * 4):
        assert rescheduled_ratios(ratios, distances, 3) == pytest.approx([0.25, 0.5, 0.75])


def test_a_standstill_is_crossed_in_one_step() -> None:
    first, middle, last = rescheduled_ratios([0, 0.5, 0.9, 1], [1, 0, 1], 3)
    assert (first, last) == pytest.approx((0.25, 0.95))
    assert 0.5 <= middle <= 0.9


def test_distances_must_fit_the_ratios() -> None:
    with pytest.raises(ValueError, match="3 ratios need 2 distances"):
        rescheduled_ratios([0, 0.5, 1], [1.0], 3)


def test_adain_gives_frames_the_interpolated_statistics_of_the_ends() -> None:
    first, last = noise(1)[0] * 2 + 1, noise(1, seed=1)[0] * 4 - 3
    frames = adain(noise(3, seed=2), first, last, [0, 0.25, 1])
    for frame, ratio in zip(frames, [0, 0.25, 1], strict=True):
        for measure in (lambda z: z.mean(dim=(1, 2)), lambda z: z.std(dim=(1, 2), correction=0)):
            expected = (1 - ratio) * measure(first) + ratio * measure(last)
            assert_close(measure(frame), expected, rtol=1e-4, atol=1e-4)


def test_a_walk_with_adain_starts_from_noise_with_the_interpolated_statistics() -> None:
    ends = torch.stack([noise(1)[0] * 2 + 1, noise(1, seed=1)[0] * 4 - 3, noise(1, seed=2)[0]])
    starts, plain = walk_starts(ends, [0.25, 0.5], with_adain=True), walk_starts(ends, [0.25, 0.5])
    for pair in range(2):
        part = slice(2 * pair, 2 * pair + 2)
        assert_close(starts[part], adain(plain[part], ends[pair], ends[pair + 1], [0.25, 0.5]))
    assert_close(starts[0].mean(dim=(1, 2)), 0.75 * ends[0].mean(dim=(1, 2)) + 0.25 * ends[1].mean(dim=(1, 2)))


def test_adain_leaves_an_end_as_it_is() -> None:
    ends = noise(2)
    assert_close(adain(ends, ends[0], ends[1], [0, 1]), ends, rtol=1e-4, atol=1e-5)
