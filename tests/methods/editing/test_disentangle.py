"""Diffusion disentanglement learns when to listen to the target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from scene_toys import Scene

from smoothtool.diffusion.sampling import constant, denoise
from smoothtool.methods.editing.disentangle import disentangle_steps, first_mixing
from smoothtool.types import Conditioning

N, W = 4, 3.0


def epochs(scene: Scene, loss_of: Callable[[torch.Tensor], torch.Tensor], count: int, **options: Any) -> list[Any]:
    return list(
        disentangle_steps(
            scene.model,
            scene.path[0],
            scene.source,
            scene.target,
            constant(scene.null),
            N,
            W,
            loss_of,
            count,
            **options,
        )
    )


def test_mixing_starts_with_the_source_for_twenty_of_fifty_steps() -> None:
    assert first_mixing(50).tolist() == [1.0] * 20 + [0.0] * 30


def test_the_first_epoch_is_a_prompt_switch_at_two_fifths(scene: Scene) -> None:
    def text_at(index: int) -> Conditioning:
        return scene.source if index < 2 else scene.target

    *_, wanted = denoise(scene.model, scene.path[0], text_at, constant(scene.null), N, W)
    (only,) = epochs(scene, lambda picture: picture.mean(), 1)
    torch.testing.assert_close(only.latents, wanted.latents, atol=1e-4, rtol=1e-4)


def test_learning_lowers_the_loss_and_moves_every_step(scene: Scene) -> None:
    wanted = torch.zeros(1, 3, 32, 32)
    steps = epochs(scene, lambda picture: (picture - wanted).square().mean(), 4, learning_rate=0.02)
    assert steps[-1].loss < steps[0].loss
    assert bool((steps[-1].mixing != steps[0].mixing).all())


def test_nothing_but_mixing_is_learned(scene: Scene) -> None:
    before = [parameter.clone() for parameter in scene.model.unet.parameters()]
    epochs(scene, lambda picture: picture.mean(), 2)
    assert all(torch.equal(a, b) for a, b in zip(before, scene.model.unet.parameters(), strict=True))
