"""The model's card: its figures as JSON, and in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from smoothtool.files.storage.writing import write_json_atomic, write_text_atomic
from smoothtool.stickers.world.icons import CONCEPTS
from smoothtool.stickers.world.scenes import COLOURS


def write_card(figures: dict[str, Any], folder: Path) -> None:
    """figures.json, and README.md with the same figures in words."""
    write_json_atomic(folder / "figures.json", figures)
    write_text_atomic(folder / "README.md", _card(figures))


def _card(figures: dict[str, Any]) -> str:
    samples, inversion = figures["samples"], figures["inversion_psnr_db"]
    clip = figures["clip_on_drawings"]
    rows = [
        ("VAE, unseen scenes, PSNR", f"{figures['vae_psnr_db']:.2f} dB", ">= 33 dB"),
        ("samples: right concept first among 50", f"{samples['concept']:.0%}", ">= 90 %"),
        ("samples: right style", f"{samples['style']:.0%}", ">= 90 %"),
        ("samples: right background colour", f"{samples['colour']:.0%}", ">= 98 %"),
        ("reconstruction: the VAE alone, PSNR", f"{inversion['vae']:.2f} dB", ""),
        (
            "reconstruction: null-text, Gauss-Newton",
            f"{inversion['nti_gauss_newton']:.2f} dB",
            "",
        ),
        ("reconstruction: null-text, Adam", f"{inversion['nti_adam']:.2f} dB", ""),
        ("reconstruction: DDIM", f"{inversion['ddim']:.2f} dB", "worse than null-text"),
        ("tiny CLIP on drawings: right concept first among 50", f"{clip['concept']:.0%}", ""),
        ("tiny CLIP on drawings: right style, colour", f"{clip['style']:.0%}, {clip['colour']:.0%}", ""),
    ]
    table = "\n".join(f"| {name} | {figure} | {aim} |" for name, figure, aim in rows)
    return CARD.format(
        table=table,
        millions=figures["unet_parameters"] / 1e6,
        fingerprint=figures["fingerprint"],
        guidance=figures["guidance"],
        count=samples["count"],
        inversions=figures["inversion_count"],
        concepts=", ".join(CONCEPTS),
        colours=", ".join(COLOURS),
        drawings=_percentages(figures["judge_on_drawings"]),
        decoded=_percentages(figures["judge_on_decoded"]),
        smooth=_smooth_section(figures["smooth"]) if "smooth" in figures else "",
    )


def _percentages(judge: dict[str, float]) -> str:
    return f"{judge['concept']:.1%} of concepts, {judge['style']:.1%} of styles and {judge['colour']:.1%} of colours"


def _smooth_section(smooth: dict[str, Any]) -> str:
    plain, with_lora, istd, score = (smooth[name] for name in ("plain", "with_lora", "istd", "clip_score"))
    rows = [
        ("ISTD", f"{istd['plain']:.2f}", f"{istd['with_lora']:.2f}", _interval(istd["difference"])),
        ("mean distance of neighbours", f"{istd['plain_distance']:.2f}", f"{istd['with_lora_distance']:.2f}", ""),
        ("tiny CLIP score", f"{score['plain']:.2f}", f"{score['with_lora']:.2f}", _interval(score["difference"])),
        *(
            (f"samples: right {name}", f"{plain[name]:.0%}", f"{with_lora[name]:.0%}", "")
            for name in ("concept", "style", "colour")
        ),
    ]
    return SMOOTH.format(
        table="\n".join(f"| {' | '.join(row)} |" for row in rows),
        prompts=istd["difference"]["count"],
        steps=istd["steps"],
        samples=score["difference"]["count"],
    )


def _interval(difference: dict[str, float]) -> str:
    return f"{difference['mean']:+.2f} ({difference['low']:+.2f} to {difference['high']:+.2f})"


SMOOTH = """
## The smooth LoRA

`smooth.safetensors` is loaded with the model unless `--lora none` is given. It is what
`recipes/train-smooth-lora-stickers.yaml` makes: step-wise variation regularisation after Smooth Diffusion. ISTD over
{prompts} prompts in {steps} steps (population deviation of L2 distances over [0, 1] pixels), the rest over the
{samples} captions above, each with the same noise; differences with their 95 % bootstrap intervals.

| figure | without | with | difference |
|---|---|---|---|
{table}

Where the mean distance shrinks as much as ISTD, walks are evener because their pictures differ less.

![The same captions and noises with the LoRA](samples-smooth.png)
"""

CARD = """# stickers

A small but complete Stable Diffusion (AutoencoderKL, CLIPTextModel, UNet2DConditionModel with {millions:.1f} million
parameters, DDIM schedule) for 64 px pictures of icons. It lets every part of smoothtool run within a minute, without a
GPU. It is an ordinary diffusers folder: `StableDiffusionPipeline.from_pretrained` loads it.

![48 samples from held-out captions](samples.png)

## What it knows

One or two icons of one style on a plain or softly graded background. Captions such as `a 3d fox on a blue background`,
`a flat banana and an apple on a white background`, `cartoon cake`.

- Styles: 3d, cartoon, flat.
- Backgrounds: {colours}.
- Concepts: {concepts}.

Photos, people, text and anything else are outside its world.

## Measured

On held-out combinations of concept, style and colour, never trained on: {count} captions of one item sampled with 50
DDIM steps at guidance {guidance:g}, the model's default; 200 scenes for the VAE; {inversions} scenes inverted with
their captions and reconstructed at that guidance. Concept, style and colour are decided by a separate small classifier,
trained on drawings and on the same as the VAE gives them back. It is right itself on {drawings}
of unseen drawings, and on {decoded} of those through the VAE. Model fingerprint {fingerprint}.

| figure | measured | aim |
|---|---|---|
{table}
{smooth}
## Made from

Scenes composed of Microsoft Fluent Emoji (MIT), Noto Emoji (Apache 2.0) and Twemoji (Copyright Twitter and other
contributors, CC-BY 4.0). The weights are under the Apache License 2.0. Made by `python -m smoothtool.stickers.making`;
UNet and text encoder learned from 4.2 million samples of 150,000 scenes, the last 4.08 million in 7,970 steps of 512,
which took one H200 400 seconds.
"""
