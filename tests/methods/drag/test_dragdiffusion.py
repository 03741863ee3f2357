"""The drag loop against closed forms and against a plain transcription of the published one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from smoothtool.diffusion.model import DiffusionModel

sys.path.insert(0, str(Path(__file__).parent))
from typing import NoReturn

from drag_toys import transcribed_drag

from smoothtool.diffusion.ddim import ddim_step
from smoothtool.diffusion.features import predict_with_feature
from smoothtool.methods.drag.dragdiffusion import (
    DragSettings,
    DragTask,
    Sight,
    drag_steps,
    sample_beside_original,
    unet_look,
)
from smoothtool.methods.drag.gooddrag import GOODDRAG


def blob(centre_rc: torch.Tensor, size: int = 24) -> torch.Tensor:
    """Bumps of three widths, [1, 3, size, size]: a different feature at every distance from the centre."""
    places = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"), dim=-1)
    square = (places - centre_rc).square().sum(-1)
    return torch.stack([torch.exp(-square / (2 * width**2)) for width in (1.5, 3, 6)])[None]


def planted(region: torch.Tensor) -> Callable[[torch.Tensor], Sight]:
    """The blob sits 30 times the mean of the latents [1, 2, 8, 8] inside the region away from (12, 7)."""

    def look(latents: torch.Tensor) -> Sight:
        shift = (latents * region).sum(dim=(0, 2, 3)) / region.sum()
        return Sight(blob(torch.tensor([12.0, 7.0]) + 30 * shift), latents.clone())

    return look


HALF = torch.zeros(1, 1, 8, 8)
HALF[..., :4] = 1
TASK = DragTask(torch.tensor([[12.0, 7.0]]), torch.tensor([[9.0, 16.0]]), (24, 24), HALF)
STRONG = DragSettings(iterations=80, mask_weight=1e3)


def test_a_planted_blob_reaches_its_target() -> None:
    steps = list(drag_steps(planted(HALF), torch.zeros(1, 2, 8, 8), TASK, DragSettings()))
    assert steps[-1].arrived
    shift = 30 * steps[-1].latents[..., :4].mean(dim=(0, 2, 3))
    assert float((torch.tensor([12.0, 7.0]) + shift - TASK.targets_rc[0]).norm()) < 2.5  # tracking sees whole pixels


def test_latents_outside_the_region_stay_while_the_blob_moves_inside() -> None:
    steps = list(drag_steps(planted(HALF), torch.zeros(1, 2, 8, 8), TASK, STRONG))
    assert steps[-1].arrived
    assert float(steps[-1].latents[..., 4:].abs().max()) <= 1e-6


def test_latents_that_the_mask_forbids_to_change_hardly_move_however_the_points_pull() -> None:
    steps = list(drag_steps(planted(1 - HALF), torch.zeros(1, 2, 8, 8), TASK, STRONG))
    assert not steps[-1].arrived
    assert float(steps[-1].latents.abs().max()) <= 2 * STRONG.learning_rate


@pytest.mark.parametrize("masked", [False, True])
def test_handle_paths_equal_those_of_the_published_loop(model: DiffusionModel, masked: bool) -> None:
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(1, 4, 16, 16, generator=generator)
    region = (torch.rand(1, 1, 16, 16, generator=generator) > 0.4).float() if masked else None
    handles, targets = torch.tensor([[16.0, 10.0], [8.0, 20.0]]), torch.tensor([[18.0, 21.0], [20.0, 12.0]])
    text = model.encode_prompts(["a fox"])
    timestep, alpha, alpha_next = model.schedule.alpha_pairs(10)[4]

    def witness(z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        kept = []
        hook = model.unet.up_blocks[1].register_forward_hook(lambda module, inputs, out: kept.append(out))
        noise = model.unet(z, timestep, encoder_hidden_states=text.prompt_embeds).sample
        hook.remove()
        return kept[0], ddim_step(z, noise, alpha, alpha_next)

    look = unet_look(model, 4, 10, text, text, 1.0, masked=masked)
    settings = DragSettings(iterations=12, learning_rate=0.05)
    steps = list(drag_steps(look, latents, DragTask(handles, targets, (32, 32), region), settings))
    path, final = transcribed_drag(witness, latents, handles, targets, (32, 32), region, 12, rate=0.05)
    assert [step.handles_rc.tolist() for step in steps] == [points.tolist() for points in path]
    assert len({str(points.tolist()) for points in path}) > 2  # they do move
    torch.testing.assert_close(steps[-1].latents, final, atol=2e-3, rtol=0)


def test_no_weight_requires_a_gradient_while_dragging(model: DiffusionModel) -> None:
    text = model.encode_prompts(["a fox"])
    look = unet_look(model, 0, 4, text, text, 1.0, masked=False)
    task = DragTask(torch.tensor([[10.0, 10.0]]), torch.tensor([[10.0, 20.0]]), (32, 32))
    for _ in drag_steps(look, torch.randn(1, 4, 16, 16), task, DragSettings(iterations=2)):
        assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.unet.parameters())


def test_without_a_mask_the_last_block_does_not_run(model: DiffusionModel) -> None:
    def fail(*args: Any) -> NoReturn:
        raise AssertionError("the last block ran")

    text, latents = model.encode_prompts(["a fox"]), torch.randn(1, 4, 16, 16)
    _, whole = predict_with_feature(model, latents, 500, text, whole=True)
    model.unet.up_blocks[-1].register_forward_pre_hook(fail)
    noise, feature = predict_with_feature(model, latents, 500, text, whole=False)
    assert noise is None
    torch.testing.assert_close(feature, whole)


def test_the_features_hook_is_gone_after_an_exception(model: DiffusionModel) -> None:
    def fail(*args: Any) -> NoReturn:
        raise RuntimeError("out of paper")

    handle = model.unet.mid_block.register_forward_pre_hook(fail)
    text = model.encode_prompts(["a fox"])
    with pytest.raises(RuntimeError, match="out of paper"):
        predict_with_feature(model, torch.randn(1, 4, 16, 16), 500, text, whole=False)
    handle.remove()
    assert not model.unet.up_blocks[-2]._forward_hooks
    assert model.predict_noise(torch.randn(1, 4, 16, 16), 500, text).shape == (1, 4, 16, 16)


def test_guided_features_weigh_text_by_w_over_2w_minus_1(model: DiffusionModel) -> None:
    text, null = model.encode_prompts(["a fox"]), model.encode_prompts([""])
    latents = torch.randn(1, 4, 16, 16)
    sight = unet_look(model, 1, 4, text, null, 3.0, masked=True)(latents)
    timestep = model.schedule.timesteps(4)[1]
    halves = [predict_with_feature(model, latents, timestep, row, whole=True)[1] for row in (null, text)]
    torch.testing.assert_close(
        sight.feature, torch.cat([0.4 * halves[0], 0.6 * halves[1]], dim=1), atol=1e-5, rtol=1e-4
    )


def test_an_unchanged_row_beside_the_original_samples_the_original(model: DiffusionModel) -> None:
    text, latents = model.encode_prompts(["a fox"]), torch.randn(1, 4, 16, 16)
    steps = list(sample_beside_original(model, latents, latents.clone(), text, text, 6, 1.0, start=2))
    assert [step.step_index for step in steps] == [2, 3, 4, 5]
    torch.testing.assert_close(steps[-1].latents[0], steps[-1].latents[1])


def test_lengths_are_the_papers_on_their_grid_and_shares_of_the_picture_on_smaller_ones() -> None:
    assert DragSettings().on_grid((256, 192)) == DragSettings()
    assert GOODDRAG.on_grid((256, 256)) == GOODDRAG
    small = GOODDRAG.on_grid((96, 128))
    assert (small.patch_radius, small.window_radius, small.stride, small.arrived) == (2, 6, 2.0, 1.0)
    least = GOODDRAG.on_grid((32, 32))
    assert (least.patch_radius, least.window_radius, least.stride, least.arrived) == (1, 3, 1.0, 0.5)


def test_on_a_small_grid_the_blob_must_reach_its_very_target() -> None:
    def drag(settings: DragSettings) -> tuple[float, bool]:
        task = DragTask(torch.tensor([[12.0, 7.0]]), torch.tensor([[12.0, 15.0]]), (24, 24))
        *_, last = drag_steps(planted(torch.ones(1, 1, 8, 8)), torch.zeros(1, 2, 8, 8), task, settings)
        return float((task.targets_rc - last.handles_rc).norm()), last.arrived

    assert drag(DragSettings().on_grid((24, 24))) == (0.0, True)
    assert drag(DragSettings()) == (pytest.approx(1.0), True)
