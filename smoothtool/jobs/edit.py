"""What can be asked of `smoothtool edit`, and which inversion goes with which editing method."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from smoothtool.jobs.base import FormatJob
from smoothtool.jobs.invert import InversionName, PictureJob
from smoothtool.jobs.notation import has_words, parse_fraction, parse_weight
from smoothtool.jobs.options import INVERSION, PATH, PATH_OR_NAME, SAMPLING, Flag
from smoothtool.types import Proximal

EditName = Literal["switch", "sdedit", "p2p", "pnp", "pix2pix-zero", "cycle", "flowedit", "disentangle", "masactrl"]
_SINGLE = ("nti", "ddim", "npi", "proxnpi", "direct", "fixed-point", "spdinv", "dci")
_NOISES = "it starts from noise added to the picture and inverts nothing"
_BESIDE = ("direct", *(name for name in _SINGLE if name != "direct"))
"""Direct inversion first: the source row stays exact at any guidance, and it costs a tenth of null-text inversion."""
_WHY_BESIDE = "it samples source and target side by side, and edict and belm carry two latents of their own"
EDIT_INVERSIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "switch": ((*_SINGLE, "edict", "belm"), ""),
    "p2p": (_BESIDE, _WHY_BESIDE),
    "masactrl": (_BESIDE, _WHY_BESIDE),
    "pnp": (
        ("ddim", "fixed-point", "spdinv", "dci"),
        "it reads the latents of a plain inversion under the empty prompt",
    ),
    "pix2pix-zero": ((), "it brings its own inversion, with regularised noise"),
    "disentangle": (
        ("nti", "ddim", "npi", "fixed-point", "spdinv", "dci"),
        "it samples anew under mixed prompts, from the noise end",
    ),
    "sdedit": ((), _NOISES),
    "cycle": ((), _NOISES),
    "flowedit": ((), _NOISES),
}
"""Per editing method the inversions that make sense, its own choice first, and why the others do not."""
DEFAULT_RATIO = "0.8"
"""Of switch: the share of steps that listen to the target prompt."""
NEED_SOURCE = ("p2p", "pix2pix-zero", "disentangle")
"""Editing methods that compare two prompts."""
READ_BY = {
    "ratio": ("switch",),
    "strength": ("sdedit", "cycle", "flowedit"),
    "source_guidance": ("flowedit",),
    "cross_steps": ("p2p",),
    "self_steps": ("p2p",),
    "blend": ("p2p",),
    "reweight": ("p2p",),
    "map_rows": ("pix2pix-zero",),
    "src_sentence": ("pix2pix-zero",),
    "trg_sentence": ("pix2pix-zero",),
}
"""Options that only some methods read."""

RECORDED_BY_0_1 = {"self_steps": 0.6}
"""Defaults of version 0.1.0 that its recipes hold for every method, where today's default is another."""


class EditJob(PictureJob, FormatJob):
    """Change a picture by words: what it shows, and what it should show."""

    command: ClassVar[str] = "edit"
    several_seeds: ClassVar[bool] = True
    made: ClassVar[str] = "edited*.*"
    own_defaults: ClassVar[dict[str, dict[str, Any]]] = {"pix2pix-zero": {"guidance": 5.0}}
    guidance: Annotated[float, Flag("-g", panel=SAMPLING)] = Field(
        7.5,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="Guidance scale: how strongly prompts steer; 1 is none; pix2pix-zero's own default is 5",
    )
    image: Annotated[str, Flag(positional=True, path=PATH)] = Field(
        description="A picture, an inversion file or samples:NAME"
    )
    src: Annotated[str, Flag()] = Field("", description="What the picture shows, as a prompt")
    trg: Annotated[list[str], Flag()] = Field(
        min_length=1, description="What it should show, as a prompt; repeat for several edits"
    )
    compare: Annotated[bool, Flag()] = Field(
        False, description="Run every method, each with its own inversion, on one target: one sheet, one table"
    )
    method: Annotated[Literal["auto", EditName], Flag()] = Field(
        "auto", description="How to edit; auto takes what was measured best for such an edit, switch is the paper's"
    )
    ratio: Annotated[list[str], Flag("-r")] = Field(
        [], description="For switch: part of the steps that follow the target, 0 to 1, by default 0.8; 0.6,0.8 for both"
    )
    inversion: Annotated[Literal["auto", InversionName], Flag(panel=INVERSION)] = Field(  # type: ignore[assignment]
        "auto", description="Inversion, as for invert; auto is the method's own choice"
    )
    proximal: Annotated[Proximal, Flag(panel=INVERSION)] = Field(
        "program",
        description="For proxnpi: how differences between the prompts are thinned out; program keeps 60 % of them and "
        "shrinks them, soft (the paper's l1) 30 %, hard (l0) 30 % unshrunk",
    )
    strength: Annotated[float, Flag()] = Field(
        0.8,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="For sdedit, cycle and flowedit: how far towards noise the edit begins",
    )
    source_guidance: Annotated[float | None, Flag(panel=SAMPLING)] = Field(
        None,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="For flowedit: guidance scale of the source prompt; by default half of the guidance",
    )
    cross_steps: Annotated[float, Flag()] = Field(
        0.4, ge=0, le=1, allow_inf_nan=False, description="For p2p: part of the steps with the source's cross-attention"
    )
    self_steps: Annotated[float | None, Flag()] = Field(
        None,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="For p2p: part of the steps with the source's self-attention; by default 0.6, and 0.4 for SDXL",
    )
    blend: Annotated[list[str], Flag()] = Field(
        [], description="For p2p: words outside whose place the picture stays as it is"
    )
    reweight: Annotated[list[str], Flag()] = Field(
        [], description="For p2p: WORD=FACTOR makes a word of the target prompt count more or less; repeat for more"
    )
    src_sentence: Annotated[list[str], Flag()] = Field(
        [], description="For pix2pix-zero: sentences about what the picture shows, instead of the built-in ones"
    )
    trg_sentence: Annotated[list[str], Flag()] = Field(
        [], description="For pix2pix-zero: sentences about what it should show, instead of the built-in ones"
    )
    map_rows: Annotated[Literal["both", "one"], Flag()] = Field(
        "both",
        description="For pix2pix-zero: both, its program's, moves a latent for each half of the guidance, with src as "
        "the null prompt; one moves a single latent, with the negative prompt as null",
    )
    clip: Annotated[str, Flag(path=PATH_OR_NAME, names=("stickers",))] = Field(
        "stickers", min_length=1, description="CLIP: stickers (small, embedded), a folder, or a hub id on this machine"
    )

    @field_validator("trg")
    @classmethod
    def _targets_say_something(cls, trg: list[str]) -> list[str]:
        if not all(text.strip() for text in trg):
            raise ValueError("is empty: say what the picture should show")
        return trg

    @field_validator("compare")
    @classmethod
    def _compared_on_one_target(cls, compare: bool, info: ValidationInfo) -> bool:
        if compare and len(info.data.get("trg", [])) > 1:
            raise ValueError("runs every method on one target: give one trg")
        return compare

    @field_validator("method")
    @classmethod
    def _method_has_what_it_needs(cls, method: str, info: ValidationInfo) -> str:
        if method in NEED_SOURCE and not str(info.data.get("src", " ")).strip():
            raise ValueError(f"is {method}, which compares two prompts: say with src what the picture shows")
        inversion, compare = info.data.get("inversion", "auto"), info.data.get("compare", False)
        if method == "auto" and not compare:
            return method  # `chosen` looks at all options at once
        fitting, why = EDIT_INVERSIONS.get(method, ((), ""))
        if compare and inversion != "auto":
            raise ValueError(f"is compared with the others, each on its own inversion: leave inversion {inversion} out")
        if not compare and inversion not in ("auto", *fitting):
            choice = f"; it takes {', '.join(fitting)}" if fitting else ""
            raise ValueError(f"is {method}, which does not go with {inversion} inversion: {why}{choice}")
        return method

    @field_validator("ratio", mode="before")
    @classmethod
    def _ratio_is_one_or_several(cls, ratio: Any) -> Any:
        values = ratio if isinstance(ratio, (list, tuple)) else [ratio]
        return [part.strip() for value in values for part in str(value).split(",")]

    @field_validator("ratio")
    @classmethod
    def _ratio_is_for_switch(cls, ratio: list[str], info: ValidationInfo) -> list[str]:
        if ratio:
            _only_for_readers(info)
        for text in ratio:
            parse_fraction(text)
        if info.data.get("compare") and len(ratio) > 1:
            raise ValueError("is one number where all methods are compared")
        return list(dict.fromkeys(ratio))

    @field_validator("proximal")
    @classmethod
    def _thinning_is_for_proxnpi(cls, proximal: str, info: ValidationInfo) -> str:
        from_file = str(info.data.get("image", "")).endswith(".safetensors")
        if proximal != "program" and info.data.get("inversion") != "proxnpi" and not from_file:
            raise ValueError("is for the inversion proxnpi")
        return proximal

    @field_validator("strength", "source_guidance", "cross_steps", "self_steps")
    @classmethod
    def _numbers_are_for_their_methods(cls, number: float | None, info: ValidationInfo) -> float | None:
        name = str(info.field_name)
        if number not in (cls.model_fields[name].default, RECORDED_BY_0_1.get(name)):
            _only_for_readers(info)
        return number

    @field_validator("map_rows")
    @classmethod
    def _rows_are_for_pix2pix_zero(cls, map_rows: str, info: ValidationInfo) -> str:
        if map_rows != "both":
            _only_for_readers(info)
        elif info.data.get("method") == "pix2pix-zero" and info.data.get("negative"):
            raise ValueError("is both, which takes src as the null prompt: leave negative out, or take one")
        return map_rows

    @field_validator("blend", "reweight")
    @classmethod
    def _words_are_in_the_prompts(cls, words: list[str], info: ValidationInfo) -> list[str]:
        if words:
            _only_for_readers(info)
        blend, source = info.field_name == "blend", str(info.data.get("src", ""))
        for word in words if blend else [parse_weight(text)[0] for text in words]:
            for target in info.data.get("trg", []):
                prompts = [target, source] if blend else [target]
                if not any(has_words(prompt, word) for prompt in prompts):
                    raise ValueError(f"names {word!r}, which is no word of {' / '.join(prompts)}")
        return words

    @field_validator("src_sentence", "trg_sentence")
    @classmethod
    def _sentences_are_about_one_target(cls, sentences: list[str], info: ValidationInfo) -> list[str]:
        if sentences:
            _only_for_readers(info)
        if sentences and info.field_name == "trg_sentence" and len(info.data.get("trg", [])) > 1:
            raise ValueError("stands for one target: give one trg")
        return sentences


def _only_for_readers(info: ValidationInfo) -> None:
    """Refuse an option that the method does not read; `auto` takes one that does."""
    methods = READ_BY[str(info.field_name)]
    method = info.data.get("method", methods[0])
    if method not in (*methods, "auto") and not info.data.get("compare"):
        readers = " or ".join(filter(None, [", ".join(methods[:-1]), methods[-1]]))
        raise ValueError(f"is for the method {readers}, not for {method}")
