"""The paper's edit: the source up to the switch, the target from there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from scene_toys import Scene

from smoothtool.diffusion.sampling import constant, denoise, per_step
from smoothtool.methods.editing.prompt_switch import prompt_switch_steps, switch_index
from smoothtool.methods.inversion.belm import belm_inversion_steps
from smoothtool.methods.inversion.ddim import trajectory_of
from smoothtool.methods.inversion.edict import edict_inversion_steps
from smoothtool.methods.inversion.resume import source_path
from smoothtool.types import Conditioning

N, W = 6, 3.0


def run(scene: Scene, ratio: float, target: Conditioning | None = None) -> list[Any]:
    target = target or scene.target
    return list(prompt_switch_steps(scene.model, scene.inversion, scene.path, target, scene.null, ratio, W))


@pytest.mark.parametrize(("ratio", "first"), [(1.0, 0), (0.9, 5), (0.8, 10), (0.7, 15), (0.6, 20), (0.01, 50), (0, 50)])
def test_switch_index_is_the_first_step_not_under_the_source(ratio: float, first: int) -> None:
    assert switch_index(ratio, 50) == first


def test_ratio_zero_takes_no_unet_call(scene: Scene) -> None:
    assert run(scene, 0.0) == []
    assert scene.model.counter.calls == 0
    assert torch.equal(scene.path[-1], scene.inversion.reconstruction)


def test_ratio_one_is_sampling_under_the_target_throughout(scene: Scene) -> None:
    *_, wanted = denoise(scene.model, scene.path[0], constant(scene.target), constant(scene.null), N, W)
    assert torch.equal(run(scene, 1.0)[-1].latents, wanted.latents)


def test_an_edit_from_the_stored_path_equals_switching_while_sampling(scene: Scene) -> None:
    def text_at(index: int) -> Conditioning:
        return scene.source if index < 3 else scene.target

    *_, wanted = denoise(scene.model, scene.path[0], text_at, constant(scene.null), N, W)
    assert torch.equal(run(scene, 0.5)[-1].latents, wanted.latents)


def test_an_edit_costs_one_guided_call_for_every_step_after_the_switch(scene: Scene) -> None:
    for ratio in (0.5, 1.0):
        scene.model.counter.calls = 0
        run(scene, ratio)
        assert scene.model.counter.calls == N - switch_index(ratio, N)


def test_switching_to_the_source_itself_is_the_reconstruction(scene: Scene) -> None:
    assert torch.equal(run(scene, 0.5, scene.source)[-1].latents, scene.inversion.reconstruction)


def test_each_step_uses_its_own_null_embedding(scene: Scene) -> None:
    embeds = torch.randn(N, 1, *scene.null.prompt_embeds.shape[1:], generator=torch.Generator().manual_seed(0))
    scene.inversion = replace(scene.inversion, null_embeds=embeds)
    *_, wanted = denoise(scene.model, scene.path[2], constant(scene.target), per_step(scene.null, embeds), N, W, 2)
    assert torch.equal(run(scene, 4 / 6)[-1].latents, wanted.latents)


def test_a_path_that_was_not_kept_is_sampled_again(scene: Scene) -> None:
    without = replace(scene.inversion, sampled=None)
    assert torch.equal(source_path(scene.model, without, scene.source, scene.null), scene.path)


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.9])
def test_edict_goes_back_exactly_when_the_prompt_does_not_change(scene: Scene, ratio: float) -> None:
    steps = list(edict_inversion_steps(scene.model, scene.latents, scene.source, N))
    trajectory = trajectory_of(scene.latents.double(), steps)
    coupled = torch.stack([scene.latents.double(), *(step.coupled for step in steps)])
    scene.inversion = replace(
        scene.inversion,
        method="edict",
        trajectory=trajectory,
        sampled=trajectory.latents.flip(0),
        null_embeds=scene.source.prompt_embeds.expand(N, -1, -1, -1),
        extra={"coupled": coupled},
    )
    torch.testing.assert_close(run(scene, ratio, scene.source)[-1].latents.float(), scene.latents, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.9])
def test_belm_goes_back_exactly_when_the_prompt_does_not_change(scene: Scene, ratio: float) -> None:
    trajectory = trajectory_of(
        scene.latents.double(), list(belm_inversion_steps(scene.model, scene.latents, scene.source, N))
    )
    scene.inversion = replace(
        scene.inversion,
        method="belm",
        trajectory=trajectory,
        sampled=trajectory.latents.flip(0),
        null_embeds=scene.source.prompt_embeds.expand(N, -1, -1, -1),
    )
    torch.testing.assert_close(run(scene, ratio, scene.source)[-1].latents.float(), scene.latents, atol=1e-3, rtol=1e-3)


def test_belm_from_the_noise_end_takes_every_step_once(scene: Scene) -> None:
    trajectory = trajectory_of(
        scene.latents.double(), list(belm_inversion_steps(scene.model, scene.latents, scene.source, N))
    )
    scene.inversion = replace(scene.inversion, method="belm", trajectory=trajectory, sampled=trajectory.latents.flip(0))
    assert [step.step_index for step in run(scene, 1.0)] == list(range(N))
