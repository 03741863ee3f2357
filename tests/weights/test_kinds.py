"""Kinds of models, told from the small files that their repositories publish."""

from __future__ import annotations

from typing import Any

import pytest

from smoothtool.errors import ModelError
from smoothtool.weights.kinds import ONE_ENCODER, SD1, SD2, SDXL, TWO_ENCODERS, Described, check_kind

UNET = ["diffusers", "UNet2DConditionModel"]
BASE: dict[str, Any] = {"_class_name": "StableDiffusionPipeline", "unet": UNET}
XL: dict[str, Any] = {"_class_name": "StableDiffusionXLPipeline", "unet": UNET}
XL_UNET = {"in_channels": 4, "cross_attention_dim": 2048, "addition_embed_type": "text_time"}
ONE, TWO = ("unet", "vae", *ONE_ENCODER), ("unet", "vae", *TWO_ENCODERS)
EULER = {"_class_name": "EulerDiscreteScheduler", "prediction_type": "epsilon", "timestep_spacing": "leading"}


@pytest.mark.parametrize(
    ("index", "unet", "parts", "family"),
    [
        (BASE, {"in_channels": 4, "cross_attention_dim": 768}, ONE, SD1),
        (BASE, {"in_channels": 4, "cross_attention_dim": 1024}, ONE, SD2),
        (BASE, {"in_channels": 4, "cross_attention_dim": 16}, ONE, "Stable Diffusion"),
        (XL, XL_UNET, TWO, SDXL),
        ({"unet": UNET}, XL_UNET, TWO, SDXL),
    ],
)
def test_base_models_are_told_by_their_unet(index: dict, unet: dict, parts: tuple, family: str) -> None:
    assert check_kind("mine", Described(index, unet, EULER, parts)) == family


@pytest.mark.parametrize(
    ("index", "unet", "scheduler", "what"),
    [
        ({"_class_name": "StableDiffusion3Pipeline", "transformer": []}, {}, {}, "a Stable Diffusion 3 model"),
        ({"_class_name": "FluxPipeline", "transformer": []}, {}, {}, "a FLUX model"),
        (BASE, {"in_channels": 9, "cross_attention_dim": 768}, {}, "a variant of Stable Diffusion for in-painting"),
        (XL, {**XL_UNET, "in_channels": 9}, {}, "a variant of Stable Diffusion XL for in-painting"),
        (XL, {**XL_UNET, "in_channels": 8}, {}, "for instruct-pix2pix"),
        (BASE, {"in_channels": 7}, {}, "for upscaling"),
        (BASE, {"in_channels": 12}, {}, "a UNet of 12 input channels"),
        (XL, {**XL_UNET, "cross_attention_dim": 1280}, {}, "the refiner of Stable Diffusion XL"),
        ({**XL, "requires_aesthetics_score": True}, XL_UNET, {}, "the refiner of Stable Diffusion XL"),
        (XL, {**XL_UNET, "time_cond_proj_dim": 256}, {}, "latent consistency"),
        (XL, XL_UNET, {"_class_name": "LCMScheduler"}, "latent consistency"),
        (XL, XL_UNET, {**EULER, "timestep_spacing": "trailing"}, "a turbo model is distilled"),
        ({"transformer": []}, {}, {}, "a model without UNet2DConditionModel"),
        ({"_class_name": "DiTPipeline"}, {}, {}, "a DiTPipeline without"),
    ],
)
def test_other_kinds_are_refused_by_name(index: dict, unet: dict, scheduler: dict, what: str) -> None:
    with pytest.raises(ModelError, match=what) as caught:
        check_kind("mine", Described(index, unet, scheduler, TWO))
    assert caught.value.hint


@pytest.mark.parametrize(
    "name", ["stabilityai/sdxl-turbo", "/models/SDXL-Lightning", "dreamshaper-xl-v2-turbo", "x/Hyper-SD"]
)
def test_a_name_that_says_distilled_is_believed(name: str) -> None:
    with pytest.raises(ModelError, match="distilled to few steps"):
        check_kind(name, Described(XL, XL_UNET, EULER, TWO))


@pytest.mark.parametrize("name", ["turbo/sdxl", "a/turbocharged", "/turbo/model", "me/hyperreal-xl"])
def test_a_name_with_other_words_is_not(name: str) -> None:
    assert check_kind(name, Described(XL, XL_UNET, EULER, TWO)) == SDXL


def test_velocity_models_may_sample_from_the_last_time_on() -> None:
    scheduler = {**EULER, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    assert check_kind("mine", Described(XL, XL_UNET, scheduler, TWO)) == SDXL


@pytest.mark.parametrize(
    ("lost", "what"),
    [
        ("unet", "no UNet"),
        ("tokenizer_2", "no second tokenizer"),
        ("text_encoder", "no text encoder"),
        ("vae", "no VAE"),
    ],
)
def test_a_missing_part_is_named(lost: str, what: str) -> None:
    parts = [part for part in TWO if part != lost]
    with pytest.raises(ModelError, match=what):
        check_kind("mine", Described(XL, XL_UNET, EULER, parts))
