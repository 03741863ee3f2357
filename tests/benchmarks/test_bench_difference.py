"""What `bench_difference.py` draws: on a small model, the two slopes that the error has."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from toys import tiny_model

sys.path.insert(0, str(Path(__file__).parent))
from bench_difference import Sample, curve

from smoothtool.diffusion.lora import add_trainable_lora
from smoothtool.methods.smoothness.step_variation import NoisyBatch


def test_errors_grow_with_the_square_of_long_lengths_and_with_the_inverse_of_short_ones(tmp_path: Path) -> None:
    model = tiny_model(tmp_path, prediction_type="v_prediction")
    torch.manual_seed(0)
    for parameter in add_trainable_lora(model.unet, 2):
        parameter.data += 0.2 * torch.randn_like(parameter)
    times, text = torch.tensor([300, 700]), model.encode_prompts(["a cat", "a dog"])
    abar = torch.tensor(model.schedule.alphas_cumprod, dtype=torch.float64)[times]
    noisy = torch.randn(3, 2, 4, 16, 16, generator=torch.Generator().manual_seed(1)).double()
    drawn = [
        Sample(NoisyBatch(*noisy[:, [row]], abar[[row]], torch.ones(1).double()), times[[row]], text[[row]])
        for row in (0, 1)
    ]
    found = {length: worst for length, _, worst in curve(model, drawn, "central", [1e-6, 1e-5, 1e-2, 3e-2], "float32")}
    assert found[3e-2] / found[1e-2] == pytest.approx(9, rel=0.2)
    assert found[1e-6] / found[1e-5] == pytest.approx(10, rel=0.5)
