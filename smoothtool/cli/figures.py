"""The figures that a person wants to see at once: how well a picture comes back, and what it cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smoothtool.figures import (
        BenchFigures,
        EvalClipScore,
        EvalFrechet,
        EvalWalks,
        IntervalFigures,
        InvertFigures,
        IstdFigures,
    )
    from smoothtool.types import Report

COLUMNS = {
    "mse": ("MSE", ".4f", ""),
    "psnr_db": ("PSNR", ".2f", " dB"),
    "ssim": ("SSIM", ".3f", ""),
    "lpips": ("LPIPS", ".3f", ""),
}
EDITED = {
    "psnr_to_source_db": ("to the source: PSNR", ".2f", " dB"),
    "ssim_to_source": ("SSIM", ".3f", ""),
    "clip_score": ("CLIP score", ".1f", ""),
}


def figure_lines(report: Report) -> list[str]:
    """What was measured, a line each; nothing for commands that make pictures alone."""
    if "compare" in report.figures:
        return [_compared(row) for row in report.figures["compare"]]
    kind = f"eval {report.job['metric']}" if report.command == "eval" else report.command
    return LINES[kind](report) if kind in LINES else []


def _inversion(report: Report[InvertFigures]) -> list[str]:
    """Its quality beside the VAE's own, UNet calls and seconds."""
    figures = report.figures
    rows = {"reconstruction": figures["reconstruction"], "at guidance 1": figures.get("guidance_1")}
    rows["the VAE alone"] = figures["vae"]
    lines = [f"{label:<16}{_quality(quality)}" for label, quality in rows.items() if quality is not None]
    cost = f"{figures['inversion_unet_calls']} UNet calls"
    took = "taken from the cache" if figures["cached"] else f"{report.seconds['invert']:.1f} s"
    return [*lines, f"{'inversion':<16}{cost}, {took}"]


def _istd(report: Report[IstdFigures]) -> list[str]:
    figures, compared = report.figures, report.figures.get("compared")
    lines = [f"ISTD            {_interval(figures['istd'])}"]
    if compared:
        lines.append(f"compared        {_interval(compared['istd'])}")
        lines.append(f"difference      {_interval(figures['difference'])}")
    return lines


def _frechet(report: Report[EvalFrechet]) -> list[str]:
    figures = report.figures
    name = "FID" if "fid" in figures else f"Frechet distance in CLIP {figures['features']}"
    value = figures["fid"] if "fid" in figures else figures["clip_frechet_distance"]
    span = f" ({figures['low']:.2f} to {figures['high']:.2f})" if "low" in figures else ""
    return [f"{name}: {value:.2f}{span}"]


def _walks(report: Report[EvalWalks]) -> list[str]:
    return [
        f"{folder}: deviation {row['adjacent_l2']['population_std']:.3f}  "
        f"PPL {row['path']['ppl']:.4g}  PDV {row['path']['pdv']:.4g} ({row['path']['distance']})"
        for folder, row in report.figures.items()
    ]


def _bench(report: Report[BenchFigures]) -> list[str]:
    """The means of the benchmark's columns beside those of doing nothing."""
    figures = report.figures
    columns = [column for column, value in figures["measured"].items() if value is not None]
    lines = [f"{figures['items']} items measured, {figures['failed']} failed, {figures['missing']} not made yet"]
    for name, row in (("measured", figures["measured"]), ("no edit", figures["no edit"])):
        values = ((column, row[column]) for column in columns)
        shown = (f"{column} {value:.4g}" for column, value in values if value is not None)
        lines.append(f"{name:<16}{'  '.join(shown)}")
    return [*lines, f"{'rule':<16}{figures['rule']}"]


def _clip_score(report: Report[EvalClipScore]) -> list[str]:
    return [f"CLIP score ({report.figures['clip']}): {_interval(report.figures['clip_score'])}"]


LINES: dict[str, Callable[[Report[Any]], list[str]]] = {
    "invert": _inversion,
    "istd": _istd,
    "bench": _bench,
    "eval recon": lambda report: [_quality(report.figures)],
    "eval fid": _frechet,
    "eval clip": _clip_score,
    "eval walk": _walks,
}


def _interval(figures: IntervalFigures) -> str:
    return f"{figures['mean']:.3f} ({figures['low']:.3f} to {figures['high']:.3f}, over {figures['count']})"


def _compared(row: Mapping[str, Any]) -> str:
    """A row of the table on a line: what is compared, how well, and what it cost."""
    name = " / ".join(str(row[key]) for key in ("method", "inversion") if key in row)
    parts = (
        [_quality(row)]
        if "mse" in row
        else [
            f"{label} {row[key]:{form}}{unit}"
            for key, (label, form, unit) in EDITED.items()
            if row.get(key) is not None
        ]
    )
    cost = f"{row['unet_calls']} UNet calls  {row['seconds']:.1f} s" if row.get("unet_calls") else ""
    return f"{name:<28}{'  '.join(part for part in (*parts, cost) if part)}"


def _quality(figures: Mapping[str, Any]) -> str:
    there = ((figures.get(key), *rest) for key, rest in COLUMNS.items())
    return "  ".join(f"{name} {value:{form}}{unit}" for value, name, form, unit in there if value is not None)
