"""The line of figures under the bars."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from smoothtool.cli import console
from smoothtool.cli.figures import figure_lines
from smoothtool.types import Report


def screen(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> StringIO:
    shown = StringIO()
    monkeypatch.setattr(console, "show", console.Show())
    monkeypatch.setattr(console, "stderr", Console(file=shown, force_terminal=terminal, width=60, color_system=None))
    return shown


def test_the_newest_figures_stand_under_the_bar_on_one_line_until_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = screen(monkeypatch, terminal=True)
    with console.Progress() as progress:
        assert progress.bars is not None
        for step in progress(range(3), "training", 3):
            progress.status(f"step {step}: loss [b]0.5, " + "x" * 100)
            progress.bars.refresh()
            assert f"step {step}: loss [b]0.5, x" in shown.getvalue().splitlines()[-1]
            assert "x" * 60 not in shown.getvalue()
        shown.truncate(0)
        progress.bars.refresh()
        assert "loss" not in shown.getvalue()


def test_piped_figures_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = screen(monkeypatch, terminal=False)
    with console.Progress() as progress:
        for step in progress(range(3), "training", 3):
            progress.status(f"step {step}")
    assert shown.getvalue() == ""


def test_an_inversion_tells_its_quality_beside_the_vaes_and_its_cost() -> None:
    quality = {"mse": 0.0051, "psnr_db": 28.92, "ssim": 0.917, "lpips": None}
    figures = {"reconstruction": quality, "vae": {**quality, "psnr_db": None}, "inversion_unet_calls": 500}
    report = Report("invert", Path("out"), {}, figures={**figures, "cached": False}, seconds={"invert": 30.41})
    assert figure_lines(report) == [
        "reconstruction  MSE 0.0051  PSNR 28.92 dB  SSIM 0.917",
        "the VAE alone   MSE 0.0051  SSIM 0.917",
        "inversion       500 UNet calls, 30.4 s",
    ]
    assert figure_lines(Report("edit", Path("out"), {}, figures=figures)) == []


def test_what_was_measured_is_told_with_its_interval() -> None:
    interval = {"mean": 2.5, "low": 2.0, "high": 3.0, "count": 30}
    istd = Report(
        "istd", Path("out"), {}, figures={"istd": interval, "compared": {"istd": interval}, "difference": interval}
    )
    assert figure_lines(istd)[::2] == [
        "ISTD            2.500 (2.000 to 3.000, over 30)",
        "difference      2.500 (2.000 to 3.000, over 30)",
    ]
    fid = {"clip_frechet_distance": 12.345, "features": "tiny", "low": 11.0, "high": 13.0}
    assert figure_lines(Report("eval", Path("out"), {"metric": "fid"}, figures=fid)) == [
        "Frechet distance in CLIP tiny: 12.35 (11.00 to 13.00)"
    ]
    row = {
        "method": "p2p",
        "inversion": "direct",
        "psnr_to_source_db": 21.0,
        "ssim_to_source": 0.9,
        "clip_score": None,
        "unet_calls": 20,
        "seconds": 1.25,
    }
    (line,) = figure_lines(Report("edit", Path("out"), {}, figures={"compare": [row]}))
    assert line.split("  ") == [
        "p2p / direct",
        *[""] * 7,
        "to the source: PSNR 21.00 dB",
        "SSIM 0.900",
        "20 UNet calls",
        "1.2 s",
    ]
