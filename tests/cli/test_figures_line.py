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


def test_the_newest_figures_stand_under_the_bar_on_one_line_until_it_is_done(monkeypatch) -> None:
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


def test_piped_figures_are_not_shown(monkeypatch) -> None:
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
