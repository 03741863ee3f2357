"""Methods that start from noise added to the picture: SDEdit and CycleDiffusion."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from scene_toys import Scene

from smoothtool.diffusion.ddim import add_noise
from smoothtool.diffusion.sampling import constant, denoise
from smoothtool.methods.editing.cycle import cycle_steps
from smoothtool.methods.editing.sdedit import sdedit_steps, start_index
from smoothtool.types import Conditioning

N, W = 6, 3.0


@pytest.mark.parametrize(("strength", "first"), [(0.8, 10), (1.0, 0), (0.0, 50), (0.58, 21)])
def test_start_index_leaves_int_of_n_times_strength_steps(strength: float, first: int) -> None:
    assert start_index(strength, 50) == first


def test_sdedit_at_full_strength_is_sampling_from_the_noised_picture(scene: Scene) -> None:
    noise = torch.randn(scene.latents.shape, generator=torch.Generator().manual_seed(1))
    noisy = add_noise(scene.latents, noise, scene.model.schedule.alpha_pairs(N)[0][1])
    *_, wanted = denoise(scene.model, noisy, constant(scene.target), constant(scene.null), N, W)
    *_, found = sdedit_steps(scene.model, scene.latents, noise, scene.target, scene.null, 1.0, N, W)
    assert torch.equal(found.latents, wanted.latents)


def test_sdedit_gives_the_picture_back_when_the_model_knows_the_noise(scene: Scene) -> None:
    noise = torch.randn(scene.latents.shape, generator=torch.Generator().manual_seed(1))
    scene.model.predict_noise = lambda latents, *_: noise.expand_as(latents)
    *_, found = sdedit_steps(scene.model, scene.latents, noise, scene.target, scene.null, 0.8, N, W)
    final = scene.model.schedule.final_alpha_cumprod
    torch.testing.assert_close(found.latents, add_noise(scene.latents, noise, final), atol=1e-5, rtol=1e-5)


def test_sdedit_and_cycle_at_strength_zero_change_nothing(scene: Scene) -> None:
    generator = torch.Generator().manual_seed(0)
    assert not list(sdedit_steps(scene.model, scene.latents, scene.latents, scene.target, scene.null, 0.0, N, W))
    assert not list(
        cycle_steps(scene.model, scene.latents, scene.source, scene.target, scene.null, N, W, [generator], strength=0.0)
    )


def cycle(scene: Scene, target: Conditioning, guidance_scale: float, seed: int = 0, **options: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    *_, last = cycle_steps(
        scene.model, scene.latents, scene.source, target, scene.null, N, guidance_scale, [generator], **options
    )
    return last.latents


@pytest.mark.parametrize("eta", [0.1, 1.0])
def test_cycle_with_equal_prompts_gives_the_picture_back(scene: Scene, eta: float) -> None:
    torch.testing.assert_close(cycle(scene, scene.source, 1.0, eta=eta), scene.latents, atol=1e-4, rtol=1e-4)


def test_cycle_with_another_prompt_changes_the_picture_and_repeats_by_seed(scene: Scene) -> None:
    first = cycle(scene, scene.target, W)
    assert float((first - scene.latents).abs().max()) > 1e-3
    assert torch.equal(first, cycle(scene, scene.target, W))
    assert not torch.equal(first, cycle(scene, scene.target, W, seed=1))


def test_cycle_runs_source_null_and_target_as_one_call_a_step(scene: Scene) -> None:
    cycle(scene, scene.target, W, strength=1.0)
    assert (scene.model.counter.calls, scene.model.counter.rows) == (N, 3 * N)
