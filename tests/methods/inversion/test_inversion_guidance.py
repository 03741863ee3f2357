"""What negative-prompt, proximal and direct inversion do at sampling time."""

from __future__ import annotations

import pytest
import torch

from smoothtool.diffusion.ddim import ddim_step
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.diffusion.sampling import constant, denoise, guide, guided_noise, per_step
from smoothtool.methods.inversion.ddim import ddim_inversion_steps, trajectory_of
from smoothtool.methods.inversion.direct import pivot_path
from smoothtool.methods.inversion.negative_prompt import negative_prompt_embeds, proximal_guidance

N, W = 6, 7.5


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))


def test_guided_sampling_with_npi_follows_the_unguided_path(model: DiffusionModel, latents: torch.Tensor) -> None:
    text, null = model.encode_prompts(["a cat"]), model.encode_prompts([""])
    *_, plain = denoise(model, latents, constant(text), constant(null), N, 1.0)
    *_, guided = denoise(model, latents, constant(text), per_step(null, negative_prompt_embeds(text, N)), N, W)
    torch.testing.assert_close(guided.latents, plain.latents, atol=1e-4, rtol=1e-4)


def test_the_hard_rule_keeps_the_largest_differences_whole_and_drops_the_rest() -> None:
    null = torch.zeros(1, 1, 2, 5)
    delta = torch.tensor([1.0, -2, 3, -4, 5, -6, 7, -8, 9, -10]).view(1, 1, 2, 5)
    # numpy's and torch's 0.7 quantile of 1..10 lies between the 7th and 8th value: 7.3
    expected = torch.tensor([0.0, 0, 0, 0, 0, 0, 0, -8, 9, -10]).view(1, 1, 2, 5) * 2
    torch.testing.assert_close(proximal_guidance("hard")(null, delta, 2.0), expected)


def test_the_soft_rule_also_shrinks_what_it_keeps_by_the_threshold() -> None:
    null = torch.zeros(1, 1, 2, 5)
    delta = torch.tensor([1.0, -2, 3, -4, 5, -6, 7, -8, 9, -10]).view(1, 1, 2, 5)
    expected = torch.tensor([0.0, 0, 0, 0, 0, 0, 0, -0.7, 1.7, -2.7]).view(1, 1, 2, 5) * 2
    torch.testing.assert_close(proximal_guidance("soft")(null, delta, 2.0), expected, atol=1e-5, rtol=1e-5)


def test_the_programs_rule_is_soft_with_the_quantile_of_source_and_target_together() -> None:
    """Batch of a source whose null text is its own prompt (no difference at all) and a target, as the program has it.

    Of ten zeros and 1 .. 10 the 0.7 quantile lies at 0.3 between the 4th and 5th value of the target: 4.3.
    """
    null = torch.zeros(1, 1, 2, 5)
    delta = torch.tensor([1.0, -2, 3, -4, 5, -6, 7, -8, 9, -10]).view(1, 1, 2, 5)
    pair = torch.cat([torch.zeros_like(delta), delta])
    threshold = pair.abs().quantile(0.7)
    assert float(threshold) == pytest.approx(4.3)
    kept = torch.sign(pair) * (pair.abs() - threshold).clamp(min=0)
    found = proximal_guidance()(null, delta, 2.0)
    torch.testing.assert_close(found, 2 * kept[1:], atol=1e-5, rtol=1e-5)
    assert int((found != 0).sum()) == 6


def test_threshold_is_each_pictures_own() -> None:
    delta = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    both = torch.cat([delta, 100 * delta])
    kept = proximal_guidance("hard")(torch.zeros_like(both), both, 1.0)
    torch.testing.assert_close(kept[1], 100 * kept[0])


def test_proximal_guidance_without_threshold_is_plain_guidance() -> None:
    null, text = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    text[0, 0, 0, 0] = null[0, 0, 0, 0]  # the smallest difference, which is the 0 quantile, is then 0
    torch.testing.assert_close(proximal_guidance("soft", 0.0)(null, text, W), guide(null, text, W))
    assert float((proximal_guidance("soft", 0.7)(null, text, W) - guide(null, text, W)).abs().max()) > 0.1


def test_direct_inversions_source_row_is_the_papers_residual_correction(
    model: DiffusionModel, latents: torch.Tensor
) -> None:
    text, null = model.encode_prompts(["a cat"]), model.encode_prompts([""])
    trajectory = trajectory_of(latents, list(ddim_inversion_steps(model, latents, text, N)))
    path = pivot_path(trajectory)
    row = trajectory.noise
    for index, (t, alpha_from, alpha_to) in enumerate(model.schedule.alpha_pairs(N)):
        pivot = trajectory.entering(index)
        step = ddim_step(pivot, guided_noise(model, pivot, t, text, null, W), alpha_from, alpha_to)
        residual = trajectory.entering(index + 1) - step
        row = ddim_step(row, guided_noise(model, row, t, text, null, W), alpha_from, alpha_to) + residual
        torch.testing.assert_close(path[index + 1], row, atol=2e-4, rtol=1e-4)
    assert torch.equal(path[-1], latents)
