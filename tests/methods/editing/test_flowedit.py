"""FlowEdit on data whose edit is known, and what it costs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from scene_toys import Scene
from toys import SD_SCHEDULE

from smoothtool.diffusion.ddim import Schedule
from smoothtool.methods.editing.flowedit import flowedit_steps
from smoothtool.methods.editing.sdedit import start_index
from smoothtool.types import Conditioning

N, W, DEVIATION = 6, 3.0, 0.5
SCHEDULE = Schedule.from_config(SD_SCHEDULE)


def prompt(mean: float) -> Conditioning:
    return Conditioning(torch.full((1, 1, 1), mean, dtype=torch.float64))


def gaussian(latents: torch.Tensor, timestep: int, text: Conditioning) -> torch.Tensor:
    """The exact denoiser of N(mean of the prompt, s^2) data."""
    alpha = SCHEDULE.alpha_prod(timestep)
    centred = latents - alpha**0.5 * text.prompt_embeds.view(-1, 1, 1, 1)
    return (1 - alpha) ** 0.5 * centred / (alpha * DEVIATION**2 + 1 - alpha)


def shift_of(steps: int, strength: float) -> torch.Tensor:
    """What the edit from mean 0 to mean 1 adds to a picture."""
    model = SimpleNamespace(schedule=SCHEDULE, predict_noise=gaussian)
    image = torch.randn(1, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    texts = (prompt(0.0), prompt(1.0), prompt(0.5))
    generator = torch.Generator().manual_seed(1)
    *_, last = flowedit_steps(model, image, *texts, steps, 1.0, [generator], 1.0, strength)  # type: ignore[arg-type]
    return last.latents - image


@pytest.mark.parametrize("strength", [1.0, 0.6])
def test_gaussian_data_moves_by_the_difference_of_the_means_less_what_the_strength_leaves_out(strength: float) -> None:
    """d = (mu_target - mu_source) (1 - s / sqrt(s^2 + u^2)) in the limit of small steps, u = n / a at the first one."""
    errors = []
    for steps in (50, 200):
        alpha = SCHEDULE.alpha_pairs(steps)[start_index(strength, steps)][1]
        wanted = 1 - DEVIATION / (DEVIATION**2 + (1 - alpha) / alpha) ** 0.5
        shift = shift_of(steps, strength)
        torch.testing.assert_close(shift, shift.mean().expand_as(shift))  # the noise cancels
        errors.append(abs(float(shift.mean()) - wanted))
    assert errors[1] < 0.02
    assert 3.0 < errors[0] / errors[1] < 5.5


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_constant_predictions_move_the_picture_by_their_guided_difference_in_any_number_of_steps(
    strength: float,
) -> None:
    """d = -u (eps_target - eps_source), each guided by its own scale, u = n / a at the first step.

    Exact only where the last step ends at tau = 0: z_flow - x shrinks with 1 - tau.
    """
    model = SimpleNamespace(
        schedule=SCHEDULE, predict_noise=lambda z, t, text: text.prompt_embeds.view(-1, 1, 1, 1).expand_as(z)
    )
    image = torch.randn(1, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    source, target, null, source_scale, scale = 0.2, 0.5, -0.1, 2.0, 3.0
    difference = (null + scale * (target - null)) - (null + source_scale * (source - null))
    for steps in (2, 6):
        alpha = SCHEDULE.alpha_pairs(steps)[start_index(strength, steps)][1]
        texts = (prompt(source), prompt(target), prompt(null))
        generator = torch.Generator().manual_seed(1)
        *_, last = flowedit_steps(model, image, *texts, steps, scale, [generator], source_scale, strength)  # type: ignore[arg-type]
        wanted = image - ((1 - alpha) / alpha) ** 0.5 * difference
        torch.testing.assert_close(last.latents, wanted, rtol=1e-10, atol=1e-10)


def run(
    scene: Scene, target: Conditioning, source_guidance: float | None = W, strength: float = 1.0, seed: int = 0
) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    texts = (scene.source, target, scene.null)
    return list(flowedit_steps(scene.model, scene.latents, *texts, N, W, [generator], source_guidance, strength))


def test_equal_prompts_and_guidance_leave_the_picture(scene: Scene) -> None:
    torch.testing.assert_close(run(scene, scene.source)[-1].latents, scene.latents, atol=1e-4, rtol=1e-4)


def test_another_prompt_changes_the_picture_and_repeats_by_seed(scene: Scene) -> None:
    first = run(scene, scene.target)[-1].latents
    assert float((first - scene.latents).abs().max()) > 1e-3
    assert torch.equal(first, run(scene, scene.target)[-1].latents)
    assert not torch.equal(first, run(scene, scene.target, seed=1)[-1].latents)


def test_the_sources_guidance_is_half_of_the_targets(scene: Scene) -> None:
    half, given = (run(scene, scene.target, scale)[-1].latents for scale in (None, W / 2))
    assert torch.equal(half, given)
    assert not torch.equal(half, run(scene, scene.target, W)[-1].latents)


def test_strength_says_how_many_steps_are_taken_and_each_is_one_call_of_four_rows(scene: Scene) -> None:
    assert run(scene, scene.target, strength=0.0) == []
    assert [step.step_index for step in run(scene, scene.target, strength=0.5)] == [3, 4, 5]
    assert (scene.model.counter.calls, scene.model.counter.rows) == (3, 12)
