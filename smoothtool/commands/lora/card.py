"""The card of a LoRA for the hub, written from its header and from reports: no network, no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smoothtool.errors import InputError
from smoothtool.files.drawing.markdown import markdown_table
from smoothtool.readers.fields import Fields, read_fields
from smoothtool.version import __version__
from smoothtool.yaml12 import dump_yaml

REPORT = "report.json"


@dataclass(frozen=True)
class CardFacts:
    """What stands on the card.

    lora     of `lora_facts`
    smooth   ISTD without and with the LoRA, as (what, mean, low, high, prompts); empty when nobody measured it
    walk     the name of the picture of a sample walk in the repository, or empty
    """

    title: str
    file: str
    twin: str
    base_model: str
    licence: str
    lora: Mapping[str, Any]
    smooth: tuple[tuple[str, float, float, float, int], ...] = ()
    definition: str = ""
    walk: str = ""


def measured_smoothness(folder: Path) -> tuple[tuple[tuple[str, float, float, float, int], ...], str]:
    """ISTD before and after, and its definition, from the folder of `smoothtool istd --compare-lora`.

    Raises: InputError when the folder has no such report.
    """
    report = read_fields(folder / REPORT, hint="the folder of smoothtool istd --compare-lora")
    figures = report.fields("figures", {})
    if report.text("command", "") != "istd" or "compared" not in figures:
        raise InputError(f"{folder}: is no result of smoothtool istd with --compare-lora", "smoothtool istd --help")
    definition = figures.fields("definition", {})
    words = (
        f"{definition.text('std', 'population')} standard deviation, pixels {definition.text('pixel_range', '0..1')}"
    )
    return (_row("without", figures), _row("with this LoRA", figures.fields("compared"))), words


def _row(name: str, figures: Fields) -> tuple[str, float, float, float, int]:
    istd = figures.fields("istd")
    return name, istd.number("mean"), istd.number("low"), istd.number("high"), istd.whole("count")


def card(facts: CardFacts) -> str:
    """README.md as the hub reads it: YAML in front, then Markdown; texts from files are shown as they are."""
    front: dict[str, Any] = {
        "license": facts.licence,
        "library_name": "diffusers",
        "tags": ["text-to-image", "stable-diffusion", "lora", "smooth-diffusion", "smoothtool"],
    }
    if facts.base_model:
        front["base_model"] = facts.base_model
    parts = [f"---\n{dump_yaml(front)}---\n", f"# {_plain(facts.title)}\n", _what(facts)]
    if facts.walk:
        parts.append(f"![A walk between two noises]({facts.walk})\n")
    parts += [_smoothness(facts), _use(facts)]
    return "\n".join(part for part in parts if part)


def _what(facts: CardFacts) -> str:
    lora, training = facts.lora, facts.lora.get("training", {})
    rows = {
        "base model": facts.base_model or training.get("base_model", "not stated"),
        "architecture": lora["architecture"],
        "lambda": training.get("lambda", "not stated"),
        "rank": lora["rank"],
        "steps": training.get("steps", "not stated"),
        "layers": str(lora["layers"]),
        "parameters": f"{lora['parameters'] / 1e6:.2f} M",
    }
    table = markdown_table([{"": key, "value": _plain(str(value))} for key, value in rows.items()])
    return (
        "A LoRA that makes the latent space of a diffusion model smooth, after *Smooth Diffusion* (Guo et al., CVPR "
        f"2024, arXiv:2312.04410), made by smoothtool {__version__}.\n\n{table}"
    )


def _smoothness(facts: CardFacts) -> str:
    if not facts.smooth:
        return "## Smoothness\n\nNot measured.\n"
    rows = [
        {"": name, "ISTD": mean, "from": low, "to": high, "prompts": count}
        for name, mean, low, high, count in facts.smooth
    ]
    return (
        f"## Smoothness\n\n{markdown_table(rows)}\nMean over prompts of the deviation of the steps of a walk between "
        f"two noises, with its 95 % interval; lower is smoother ({facts.definition}).\n"
    )


def _use(facts: CardFacts) -> str:
    twin = f" `{facts.twin}` is the same for ComfyUI and A1111." if facts.twin else ""
    return (
        f"## Use\n\n```sh\nsmoothtool interpolate a.png b.png --model MODEL --lora {facts.file}\n```\n\n"
        f"diffusers reads `{facts.file}` with `pipe.load_lora_weights`.{twin}\n"
    )


def _plain(text: str) -> str:
    """Text of a file as words of Markdown, on one line, without links, pictures and markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|!])", r"\\\1", " ".join(text.split()))
