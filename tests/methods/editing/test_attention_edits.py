"""Plug-and-Play, MasaCtrl and pix2pix-zero."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.models.attention_processor import Attention
from scene_toys import Scene

from smoothtool.diffusion.attention import attention_layers
from smoothtool.diffusion.sampling import constant, denoise
from smoothtool.errors import MemoryExhaustedError
from smoothtool.methods.editing.masactrl import masactrl_steps
from smoothtool.methods.editing.pix2pix_zero import (
    autocorrelation,
    edit_direction,
    kl_to_standard_normal,
    pix2pix_zero_steps,
    regularised,
    regularised_inversion_steps,
)
from smoothtool.methods.editing.plug_and_play import plug_and_play_steps
from smoothtool.methods.inversion.ddim import ddim_inversion_steps
from smoothtool.types import Conditioning

N, W = 6, 3.0


def plain(scene: Scene, start: torch.Tensor) -> torch.Tensor:
    *_, last = denoise(scene.model, start, constant(scene.target), constant(scene.null), N, W)
    return last.latents


def pnp(scene: Scene, **ratios: float) -> torch.Tensor:
    *_, last = plug_and_play_steps(
        scene.model, scene.inversion.trajectory, scene.null, scene.target, scene.null, W, **ratios
    )
    return last.latents


def masactrl(scene: Scene, target: Conditioning | None = None, **options: Any) -> torch.Tensor:
    target = target or scene.target
    *_, last = masactrl_steps(scene.model, scene.inversion, scene.path, scene.source, target, scene.null, W, **options)
    return last.latents


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=2e-4)


def test_plug_and_play_without_injection_is_plain_sampling(scene: Scene) -> None:
    close(pnp(scene, feature_ratio=0.0, attention_ratio=0.0), plain(scene, scene.path[0]))


def test_plug_and_play_injects_features_and_queries_each_on_its_own(scene: Scene) -> None:
    without = pnp(scene, feature_ratio=0.0, attention_ratio=0.0)
    features, queries = pnp(scene, attention_ratio=0.0), pnp(scene, feature_ratio=0.0)
    for one, other in ((features, without), (queries, without), (features, queries)):
        assert float((one - other).abs().max()) > 1e-4


def test_plug_and_play_under_the_empty_prompt_takes_the_sources_first_step(scene: Scene) -> None:
    # all three rows are then the same row
    first = next(plug_and_play_steps(scene.model, scene.inversion.trajectory, *[scene.null] * 3, W))
    step = next(denoise(scene.model, scene.path[0], constant(scene.null), constant(scene.null), N, 1.0))
    close(first.latents, step.latents)


def test_masactrl_that_never_starts_is_plain_sampling(scene: Scene) -> None:
    close(masactrl(scene, start_step=N), plain(scene, scene.path[0]))


def test_masactrl_under_the_source_prompt_is_the_reconstruction(scene: Scene) -> None:
    close(masactrl(scene, scene.source, start_step=0, start_layer=0), scene.inversion.reconstruction)


def test_masactrl_mixes_the_source_in(scene: Scene) -> None:
    assert float((masactrl(scene, start_step=0, start_layer=0) - plain(scene, scene.path[0])).abs().max()) > 1e-3


def test_a_split_batch_is_refused_by_plug_and_play_and_masactrl(scene: Scene) -> None:
    scene.model.max_batch = 2
    for edit in (pnp, masactrl):
        with pytest.raises(MemoryExhaustedError):
            edit(scene)


def test_every_edit_leaves_the_unet_as_it_was(scene: Scene) -> None:
    before = [layer.module.processor for layer in attention_layers(scene.model.unet)]
    pnp(scene), masactrl(scene)
    assert all(
        layer.module.processor is was for layer, was in zip(attention_layers(scene.model.unet), before, strict=True)
    )
    assert "forward" not in scene.model.unet.up_blocks[1].resnets[1].conv2.__dict__


def test_an_edit_given_up_halfway_leaves_no_control_behind(scene: Scene) -> None:
    steps = plug_and_play_steps(scene.model, scene.inversion.trajectory, scene.null, scene.target, scene.null, W)
    next(steps)
    processors = {type(layer.module.processor).__name__ for layer in attention_layers(scene.model.unet)}
    assert processors == {"AttnProcessor2_0"}


def test_edit_direction_is_the_difference_of_means(scene: Scene) -> None:
    both = [scene.model.encode_prompts(texts) for texts in (["a cat", "red cat"], ["a dog", "red dog", "dog"])]
    direction = edit_direction(*both)
    assert torch.equal(direction.prompt_embeds[0], both[1].prompt_embeds.mean(0) - both[0].prompt_embeds.mean(0))


def test_pix2pix_zero_without_direction_is_guided_sampling(scene: Scene) -> None:
    # the maps then equal the reference's, so their gradient vanishes
    direction = scene.source.map(torch.zeros_like)
    *_, last = pix2pix_zero_steps(scene.model, scene.path[0], scene.source, direction, scene.null, N, W)
    close(last.latents, scene.inversion.reconstruction)


def test_pix2pix_zero_without_learning_rate_is_plain_sampling(scene: Scene) -> None:
    direction = scene.target.combine(scene.source, torch.sub)
    steps = pix2pix_zero_steps(scene.model, scene.path[0], scene.source, direction, scene.null, N, W, learning_rate=0.0)
    *_, last = steps
    close(last.latents, plain(scene, scene.path[0]))


def test_pix2pix_zero_guidance_changes_the_result(scene: Scene) -> None:
    direction = scene.target.combine(scene.source, torch.sub)
    results = []
    for rate in (0.0, 10.0):
        *_, last = pix2pix_zero_steps(scene.model, scene.path[0], scene.source, direction, scene.null, N, W, rate)
        results.append(last.latents)
    assert float((results[1] - results[0]).abs().max()) > 1e-4


class KeepingProbs:
    """diffusers' attention in its plain form, which leaves its maps on the module."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            attn.head_to_batch_dim(project(of))
            for project, of in ((attn.to_q, hidden_states), (attn.to_k, context), (attn.to_v, context))
        )
        attn.probs = attn.get_attention_scores(query, key)
        return attn.to_out[0](attn.batch_to_head_dim(torch.bmm(attn.probs, value)))


def two_row_reference(
    scene: Scene, shifted: torch.Tensor, guidance_scale: float, learning_rate: float = 0.1
) -> torch.Tensor:
    """pix2pix-zero's program from its description: a whole reference pass, then two rows moved by SGD every step.

    diffusers' own attention scores and DDIM scheduler; the source prompt is the null prompt.
    """
    unet, schedule = scene.model.unet, DDIMScheduler.from_config(scene.model.schedule.config)
    schedule.set_timesteps(N)
    unet.set_attn_processor(KeepingProbs())
    maps_of = [module for name, module in unet.named_modules() if name.endswith("attn2")]

    def predict(rows: torch.Tensor, t: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
        return unet(rows, t, encoder_hidden_states=embeds).sample

    def stepped(noise: torch.Tensor, t: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        noise_null, noise_text = noise.chunk(2)
        return schedule.step(noise_null + guidance_scale * (noise_text - noise_null), t, latents).prev_sample

    source, latents, kept = scene.source.prompt_embeds, scene.path[0], {}
    with torch.no_grad():
        for t in schedule.timesteps:
            noise = predict(torch.cat([latents] * 2), t, torch.cat([source, source]))
            kept[int(t)] = [module.probs for module in maps_of]
            latents = stepped(noise, t, latents)
    latents, embeds = scene.path[0], torch.cat([source, shifted])
    for t in schedule.timesteps:
        rows = torch.cat([latents] * 2).requires_grad_(True)
        predict(rows, t, embeds)
        pairs = zip(maps_of, kept[int(t)], strict=True)
        sum((module.probs - wanted).square().sum(dim=(1, 2)).mean() for module, wanted in pairs).backward()
        with torch.no_grad():
            torch.optim.SGD([rows], lr=learning_rate).step()
            latents = stepped(predict(rows, t, embeds), t, rows[:1]).detach()
    return latents


def test_pix2pix_zero_moves_both_rows_as_its_program_does(scene: Scene) -> None:
    direction = scene.target.combine(scene.source, torch.sub)
    *_, ours = pix2pix_zero_steps(scene.model, scene.path[0], scene.source, direction, scene.source, N, 5.0, 20.0)
    *_, single = pix2pix_zero_steps(
        scene.model, scene.path[0], scene.source, direction, scene.source, N, 5.0, 20.0, separate_rows=False
    )
    theirs = two_row_reference(scene, scene.target.prompt_embeds, 5.0, 20.0)
    torch.testing.assert_close(ours.latents, theirs, atol=1e-3, rtol=1e-3)
    assert float((single.latents - theirs).abs().max()) > 1e-2


def test_noise_is_compared_with_copies_shifted_by_one_to_half_a_side_less_one_by_channel() -> None:
    """The witness takes all correlations of a channel from its spectrum: the squared Fourier transform's inverse."""
    noise = torch.randn(1, 4, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    draws, expected, plane = torch.Generator().manual_seed(7), 0.0, noise[0]
    while True:
        side = plane.shape[-1]
        shifts = torch.randint(1, side // 2, (4,), generator=draws)
        assert 1 <= int(shifts.min()) <= int(shifts.max()) <= side // 2 - 1
        correlation = torch.fft.ifft2(torch.fft.fft2(plane).abs() ** 2).real / side**2
        for channel, shift in enumerate(shifts.tolist()):
            expected += float(correlation[channel, shift, 0] ** 2 + correlation[channel, 0, shift] ** 2)
        if side == 8:
            break
        plane = torch.nn.functional.avg_pool2d(plane, 2)
    assert float(autocorrelation(noise, torch.Generator().manual_seed(7))) == pytest.approx(expected, rel=1e-10)


def test_regularised_noise_keeps_its_deviation() -> None:
    """A shift of 0 would pull 8 x 8 noise to a deviation of 0.73."""
    draws = torch.Generator().manual_seed(1)
    deviations = [float(regularised(torch.randn(1, 4, 8, 8, generator=draws), draws).std()) for _ in range(20)]
    assert sum(deviations) / 20 == pytest.approx(0.97, abs=0.03)


def test_regularisation_lowers_the_autocorrelation_of_correlated_noise() -> None:
    smooth = torch.nn.functional.avg_pool2d(torch.randn(1, 4, 18, 18, generator=torch.Generator().manual_seed(0)), 3, 1)
    smooth = smooth / smooth.std()

    def score(noise: torch.Tensor) -> float:
        rolls = torch.Generator().manual_seed(9)
        return sum(float(autocorrelation(noise, rolls)) for _ in range(50))

    assert score(regularised(smooth, torch.Generator().manual_seed(1))) < 0.7 * score(smooth)


def test_kl_is_zero_for_standard_and_positive_for_scaled_noise() -> None:
    noise = torch.randn(1, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    noise = (noise - noise.mean()) / noise.std()
    assert abs(float(kl_to_standard_normal(noise))) < 1e-5
    assert float(kl_to_standard_normal(2 * noise)) == pytest.approx(
        4 - 1 - torch.log(torch.tensor(4.0)).item(), abs=1e-3
    )


def test_regularised_inversion_is_ddim_inversion_but_for_the_noise(scene: Scene) -> None:
    generator = torch.Generator().manual_seed(0)
    steps = list(regularised_inversion_steps(scene.model, scene.latents, scene.source, N, generator))
    plain_steps = list(ddim_inversion_steps(scene.model, scene.latents, scene.source, N))
    assert [(s.step_index, s.timestep) for s in steps] == [(s.step_index, s.timestep) for s in plain_steps]
    assert not torch.equal(steps[-1].latents, plain_steps[-1].latents)
