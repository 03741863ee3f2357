"""MSE, PSNR and SSIM against algebra and scikit-image; LPIPS absent is a reason, not a crash."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from smoothtool.errors import InputError
from smoothtool.metrics import reconstruction
from smoothtool.metrics.reconstruction import mse, psnr_db, qualities, reconstruction_quality, ssim


def pictures(size: tuple[int, int], count: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first = torch.rand(count, 3, *size, generator=generator) * 2 - 1
    return first, (first + 0.3 * torch.randn(first.shape, generator=generator)).clamp(-1, 1)


def in_01(picture: torch.Tensor) -> np.ndarray:
    return ((picture.double() + 1) / 2).permute(1, 2, 0).numpy()


def test_an_offset_of_a_half_has_mse_a_quarter_and_its_psnr() -> None:
    black = torch.full((1, 3, 8, 8), -1.0)
    assert mse(black, black + 0.5).item() == pytest.approx(0.25, abs=1e-12)
    assert psnr_db(black, black + 0.5).item() == pytest.approx(10 * math.log10(16), abs=1e-9)


def test_figures_are_per_picture() -> None:
    first, second = pictures((16, 16), count=3)
    second[1] = first[1]
    assert mse(first, second)[1] == 0
    assert math.isinf(psnr_db(first, second)[1])
    assert ssim(first, second)[1] == pytest.approx(1, abs=1e-12)
    assert (mse(first, second)[[0, 2]] > 0.01).all()


def test_mse_and_psnr_agree_with_scikit_image() -> None:
    first, second = pictures((20, 17))
    for a, b, error, peak in zip(first, second, mse(first, second), psnr_db(first, second), strict=True):
        assert error.item() == pytest.approx(4 * mean_squared_error(in_01(a), in_01(b)), rel=1e-12)
        assert peak.item() == pytest.approx(peak_signal_noise_ratio(in_01(a), in_01(b), data_range=1), rel=1e-12)


@pytest.mark.parametrize("size", [(11, 11), (64, 64), (37, 24)])
def test_ssim_agrees_with_scikit_image(size: tuple[int, int]) -> None:
    first, second = pictures(size)
    for a, b, value in zip(first, second, ssim(first, second), strict=True):
        witness = structural_similarity(
            in_01(a),
            in_01(b),
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            channel_axis=2,
            data_range=1,
        )
        assert value.item() == pytest.approx(witness, abs=1e-10)


@pytest.mark.parametrize("size", [(1, 1), (4, 30), (10, 10)])
def test_ssim_of_a_picture_smaller_than_the_window_is_a_number_and_one_when_equal(size: tuple[int, int]) -> None:
    first, second = pictures(size)
    assert torch.isfinite(ssim(first, second)).all()
    assert ssim(first, first) == pytest.approx(torch.ones(2).numpy(), abs=1e-12)


def test_missing_lpips_is_none_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruction, "find_spec", lambda name: None)
    first, second = pictures((32, 32))
    report = reconstruction_quality(first, second)
    assert report["lpips"] is None
    assert "smoothtool[metrics]" in report["lpips_reason"]


def test_lpips_without_its_backbone_names_the_file_and_downloads_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(reconstruction, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert reconstruction.lpips(*pictures((32, 32))) is None
    assert "alexnet-owt-7be5be79.pth" in reconstruction.lpips_missing()


def test_a_torchvision_that_cannot_be_imported_is_a_reason_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / reconstruction.LPIPS_BACKBONES["alex"]).touch()
    monkeypatch.setattr(reconstruction, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert "torchvision that fits torch" in reconstruction.lpips_missing()
    assert reconstruction.lpips(*pictures((32, 32))) is None


def test_pictures_too_small_for_lpips_are_a_reason_too() -> None:
    assert "31 pixels" in qualities(*pictures((30, 64)))[0].lpips_reason


def test_the_report_holds_the_means_of_the_pictures() -> None:
    first, second = pictures((16, 16), count=3)
    rows, report = qualities(first, second), reconstruction_quality(first, second)
    assert report["pictures"] == 3
    for name in ("mse", "psnr_db", "ssim"):
        assert report[name] == pytest.approx(sum(getattr(row, name) for row in rows) / 3)


def test_a_perfect_picture_leaves_the_mean_psnr_open() -> None:
    first, _ = pictures((16, 16))
    assert reconstruction_quality(first, first)["psnr_db"] is None


def test_nan_pictures_are_refused_by_number() -> None:
    first, second = pictures((8, 8))
    second[1, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="picture 1 "):
        mse(first, second)


def test_different_shapes_are_refused() -> None:
    with pytest.raises(InputError, match="different shapes"):
        ssim(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 9))
