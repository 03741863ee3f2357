"""GoodDrag's alternation, FastDrag's warp in closed form, and the identity LoRA."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from toys import tiny_model

from smoothtool.diffusion.lora import lora_layers, lora_state, remove_lora
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.jobs import identity_steps, make_job
from smoothtool.methods.drag.dragdiffusion import DragSettings, DragTask, Sight, _loss
from smoothtool.methods.drag.fastdrag import warp_latents
from smoothtool.methods.drag.feature_grid import FeatureGrid
from smoothtool.methods.drag.gooddrag import GOODDRAG, GoodDragResult, GoodDragStep, gooddrag_steps
from smoothtool.methods.drag.identity_lora import IDENTITY, fit_identity_lora, prediction_loss

POINTS = torch.tensor([[10.0, 10.0]]), torch.tensor([[10.0, 24.0]])


def run_gooddrag(model: DiffusionModel, latents: torch.Tensor, targets: torch.Tensor) -> list[Any]:
    text, settings = model.encode_prompts(["a fox"]), DragSettings(iterations=3, track_every=3, hold_original=True)
    task = DragTask(POINTS[0], targets, (32, 32))
    return list(gooddrag_steps(model, latents, task, text, text, 8, 1.0, 3, settings, denoising_steps=2))


def test_gooddrag_alternates_dragging_and_denoising(model: DiffusionModel) -> None:
    records = run_gooddrag(model, torch.randn(1, 4, 16, 16), POINTS[1])
    assert [r.step_index for r in records] == [3, 3, 3, 4, 4, 4, 5]
    assert isinstance(records[-1], GoodDragResult)
    assert all(isinstance(r, GoodDragStep) for r in records[:-1])


def test_gooddrag_leaves_the_original_on_its_own_sampling_path(model: DiffusionModel) -> None:
    latents = torch.randn(1, 4, 16, 16)
    text = model.encode_prompts(["a fox"])
    from smoothtool.diffusion.sampling import constant, denoise

    plain = [s.latents for s in denoise(model, latents, constant(text), constant(text), 8, 1.0, start=3)]
    torch.testing.assert_close(run_gooddrag(model, latents, POINTS[1])[-1].original, plain[1])


def test_gooddrag_counts_the_mean_over_a_patch_of_nine_by_nine_sixty_four_times() -> None:
    feature = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    grid = FeatureGrid.over(feature, (32, 32))
    losses = []
    for settings in (GOODDRAG, replace(GOODDRAG, side_of_area=1)):
        task, sight = DragTask(POINTS[0], POINTS[1], (32, 32)), Sight(feature, None)
        losses.append(float(_loss(grid, sight, sight, POINTS[0], task, settings)))
    assert losses[0] == pytest.approx(losses[1] * 8**2 / 9**2)


def test_gooddrag_has_the_defaults_of_its_program() -> None:
    job = make_job("drag", {"image": "cat.png", "point": ["1,2:3,4"], "method": "gooddrag"})
    assert job.strength == 0.75
    assert round(job.strength * job.steps) == 38
    assert identity_steps(job.method, job.lora_steps) == 70
    assert (GOODDRAG.mask_weight, GOODDRAG.learning_rate, GOODDRAG.patch_radius, GOODDRAG.window_radius) == (
        0.2,
        0.02,
        4,
        12,
    )
    other = make_job("drag", {"image": "cat.png", "point": ["1,2:3,4"], "method": "dragdiffusion"})
    assert (other.strength, identity_steps(other.method, other.lora_steps)) == (0.7, 80)


def test_gooddrag_stops_at_once_when_the_points_are_there(model: DiffusionModel) -> None:
    latents = torch.randn(1, 4, 16, 16)
    records = run_gooddrag(model, latents, POINTS[0] + 1)
    assert records[-1].step_index == 3
    assert len(records) == 2
    torch.testing.assert_close(records[-1].latents, latents)


def field() -> torch.Tensor:
    return torch.arange(1.0, 65.0).view(1, 1, 8, 8)


def test_the_latent_at_the_handle_lands_on_the_target() -> None:
    region = torch.zeros(8, 8, dtype=torch.bool)
    region[1:6, 1:6] = True
    warped = warp_latents(field(), torch.tensor([[3.0, 2.0]]), torch.tensor([[3.0, 4.0]]), region)
    assert warped[0, 0, 3, 4] == field()[0, 0, 3, 2]


def test_latents_outside_the_region_that_nothing_lands_on_stay() -> None:
    region = torch.zeros(8, 8, dtype=torch.bool)
    region[1:6, 1:6] = True
    warped = warp_latents(field(), torch.tensor([[3.0, 2.0]]), torch.tensor([[3.0, 4.0]]), region)
    assert torch.equal(warped[..., 6:, :], field()[..., 6:, :])
    assert torch.equal(warped[..., 0, :], field()[..., 0, :])


def test_what_is_left_behind_is_the_distance_weighted_mean_of_its_four_neighbours() -> None:
    latents = torch.zeros(1, 1, 5, 5)
    latents[0, 0, 2, 0], latents[0, 0, 2, 4], latents[0, 0, 0, 2], latents[0, 0, 4, 2] = 1.0, 2.0, 3.0, 4.0
    from smoothtool.methods.drag.fastdrag import filled_from_nearest

    known = latents[0, 0] != 0
    filled = filled_from_nearest(latents, known)
    assert float(filled[0, 0, 2, 2]) == pytest.approx(2.5)  # all four at distance 2
    assert float(filled[0, 0, 2, 1]) == pytest.approx((1 / 1 + 2 / 3) / (1 + 1 / 3))  # 1 step and 3 steps away
    assert torch.equal(filled[0, 0][known], latents[0, 0][known])


def test_no_drag_leaves_the_latents_as_they_are() -> None:
    region = torch.ones(8, 8, dtype=torch.bool)
    points = torch.tensor([[3.0, 2.0]])
    assert torch.equal(warp_latents(field(), points, points, region), field())


def test_the_identity_lora_learns_the_picture_and_leaves_no_gradients(model: DiffusionModel) -> None:
    latents, text = torch.randn(1, 4, 20, 16), model.encode_prompts(["a fox"])
    generator = torch.Generator().manual_seed(0)
    losses = [s.loss for s in fit_identity_lora(model, latents, text, 30, generator, rank=4, learning_rate=3e-2)]
    assert sum(losses[-10:]) < 0.97 * sum(losses[:10])
    assert not any(parameter.requires_grad for parameter in model.unet.parameters())
    assert lora_layers(model.unet, IDENTITY)
    remove_lora(model, IDENTITY)
    assert not lora_layers(model.unet, IDENTITY)


def test_the_identity_lora_is_the_same_for_the_same_seed(model: DiffusionModel) -> None:
    latents, text = torch.randn(1, 4, 16, 16), model.encode_prompts(["a fox"])
    runs = []
    for _ in range(2):
        runs.append([s.loss for s in fit_identity_lora(model, latents, text, 3, torch.Generator().manual_seed(5))])
        remove_lora(model, IDENTITY)
    assert runs[0] == runs[1]


def test_the_identity_lora_starts_from_normal_down_matrices_and_takes_steps_of_adamw(model: DiffusionModel) -> None:
    latents, text, rate = torch.randn(1, 4, 16, 16), model.encode_prompts(["a fox"]), 2e-4
    starts, ends = [], []
    for steps, letters in ((0, starts), (1, ends)):
        generator = torch.Generator().manual_seed(5)
        list(fit_identity_lora(model, latents, text, steps, generator, rank=8, learning_rate=rate, batch=1))
        state = lora_state(model.unet, IDENTITY)
        letters += [
            torch.cat([value.flatten() for key, value in state.items() if f"lora_{letter}" in key]) for letter in "AB"
        ]
        remove_lora(model, IDENTITY)
    assert float(starts[0].std()) == pytest.approx(1 / 8, rel=0.05)
    assert float((starts[0] / starts[0].std()).pow(4).mean()) == pytest.approx(3, rel=0.1)  # 1.8 if it were uniform
    assert not starts[1].any()
    # behind up matrices of zero the down ones have no gradient, and only decay; the up ones go by the rate
    torch.testing.assert_close(ends[0], starts[0] * (1 - rate * 1e-2), rtol=0, atol=1e-7)
    assert float(ends[1].abs().median()) == pytest.approx(rate, rel=0.01)


def test_large_crops_are_learned_in_parts_by_the_same_steps(
    model: DiffusionModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents, text = torch.randn(1, 4, 16, 16), model.encode_prompts(["a fox"])
    rows, predict = [], model.predict_noise
    monkeypatch.setattr(model, "predict_noise", lambda z, *given: (rows.append(len(z)), predict(z, *given))[1])
    runs = []
    for at_once in (4, 3):
        monkeypatch.setattr("smoothtool.methods.drag.identity_lora.LEARNED_AT_ONCE", at_once * 16 * 16)
        losses = [s.loss for s in fit_identity_lora(model, latents, text, 3, torch.Generator().manual_seed(5))]
        runs.append((losses, lora_state(model.unet, IDENTITY)))
        remove_lora(model, IDENTITY)
    assert rows == [4] * 3 + [3, 1] * 3
    assert runs[0][0] == pytest.approx(runs[1][0], rel=1e-5)
    torch.testing.assert_close(runs[0][1], runs[1][1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_identity_lora_is_fitted_with_the_loss_that_the_model_was_trained_with(
    tmp_path: Path, prediction_type: str
) -> None:
    model = tiny_model(tmp_path, prediction_type=prediction_type)
    latents, noise, text = torch.randn(4, 4, 16, 16), torch.randn(4, 4, 16, 16), model.encode_prompts(["a fox"])
    times = torch.randint(1000, (4,), generator=torch.Generator().manual_seed(3))
    loss = prediction_loss(model, latents, noise, text, times)
    scheduler = DDIMScheduler.from_config(model.schedule.config)
    target = noise if prediction_type == "epsilon" else scheduler.get_velocity(latents, noise, times)
    embeds = text.expand(4).prompt_embeds
    predicted = model.unet(scheduler.add_noise(latents, noise, times), times, encoder_hidden_states=embeds).sample
    torch.testing.assert_close(loss, (predicted - target).square().mean(), rtol=1e-4, atol=1e-5)
