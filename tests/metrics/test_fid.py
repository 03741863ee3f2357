"""The Frechet distance against scipy and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from smoothtool.errors import InputError, ModelError
from smoothtool.metrics import fid
from smoothtool.metrics.fid import frechet, frechet_distance, inception_features


def rows(count: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.randn(count, width, generator=generator, dtype=torch.float64) @ mix + seed


def test_agrees_with_scipys_matrix_root() -> None:
    a, b = rows(200, 12, 1).numpy(), rows(150, 12, 2).numpy()
    covariance_a, covariance_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    witness = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(
        covariance_a + covariance_b - 2 * sqrtm(covariance_a @ covariance_b).real
    )
    assert frechet_distance(torch.from_numpy(a), torch.from_numpy(b)) == pytest.approx(witness, rel=1e-9)


def test_a_shift_costs_its_squared_length() -> None:
    a = rows(100, 6, 3)
    shift = torch.arange(6, dtype=torch.float64)
    assert frechet_distance(a, a + shift) == pytest.approx(float(shift.square().sum()), rel=1e-9)


def test_scaling_by_two_costs_the_trace() -> None:
    a = rows(100, 6, 3)
    a = a - a.mean(dim=0)
    assert frechet_distance(a, 2 * a) == pytest.approx(float(torch.cov(a.T).trace()), rel=1e-9)


def test_a_set_is_at_no_distance_from_itself_even_with_fewer_rows_than_features() -> None:
    a = rows(5, 16, 4)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-5)


def test_few_pictures_warn_and_many_do_not() -> None:
    few, many = rows(10, 2, 5), rows(2048, 2, 5)
    assert "10 pictures" in frechet(few, many, "tiny").warning
    assert frechet(many, many, "tiny").warning == ""
    assert frechet(few, many, "tiny").features == "tiny"


def test_the_distance_is_known_without_each_twentieth_of_the_pictures() -> None:
    a, b = rows(50, 3, 6), rows(60, 3, 7)
    left_out = frechet(a, b, "tiny").left_out
    assert len(left_out) == 20
    kept_a, kept_b = ([at for at in range(len(side)) if at % 20 != 3] for side in (a, b))
    assert left_out[3] == frechet_distance(a[kept_a], b[kept_b])
    assert frechet(a[:19], b, "tiny").left_out == ()


def test_one_picture_is_refused() -> None:
    with pytest.raises(InputError, match="two pictures"):
        frechet_distance(rows(1, 3, 0), rows(9, 3, 0))


def test_inception_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fid, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"smoothtool\[metrics\]"):
        inception_features(torch.zeros(1, 3, 8, 8))
