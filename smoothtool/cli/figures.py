"""The figures that a person wants to see at once: how well a picture comes back, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smoothtool.types import Report

ROWS = {"reconstruction": "reconstruction", "guidance_1": "at guidance 1", "vae": "the VAE alone"}
COLUMNS = {"mse": ("MSE", ".4f", ""), "psnr_db": ("PSNR", ".2f", " dB"), "ssim": ("SSIM", ".3f", ""),
           "lpips": ("LPIPS", ".3f", "")}  # fmt: skip


def figure_lines(report: Report) -> list[str]:
    """Of an inversion: its quality beside the VAE's own, UNet calls and seconds; nothing for other reports."""
    figures = report.figures
    if report.command != "invert" or "reconstruction" not in figures:
        return []
    lines = [f"{label:<16}{_quality(figures[key])}" for key, label in ROWS.items() if key in figures]
    cost = f"{figures['inversion_unet_calls']} UNet calls"
    took = "taken from the cache" if figures["cached"] else f"{report.seconds['invert']:.1f} s"
    return [*lines, f"{'inversion':<16}{cost}, {took}"]


def _quality(figures: Mapping[str, Any]) -> str:
    there = ((figures.get(key), *rest) for key, rest in COLUMNS.items())
    return "  ".join(f"{name} {value:{form}}{unit}" for value, name, form, unit in there if value is not None)
