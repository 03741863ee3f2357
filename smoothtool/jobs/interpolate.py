"""What can be asked of `smoothtool interpolate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator

from smoothtool.jobs.base import FormatJob
from smoothtool.jobs.invert import InversionJob
from smoothtool.jobs.options import INVERSION, PATH, SAMPLING, Flag

MorphName = Literal["slerp", "vae", "anid", "attention", "freemorph", "diffmorpher"]
MORPH_NAMES: tuple[MorphName, ...] = get_args(MorphName)
SHARED_INVERSION = ("slerp", "attention")
"""Methods that start from an inversion that the pictures share; the others bring their own way, or need none."""
READ_BY = {
    "adain": SHARED_INVERSION,
    "attention_span": ("attention",),
    "lora_steps": ("diffmorpher",),
}
"""Options that only some methods read."""
FEWER_FRAMES = {"grid": 3, "compare": 7}
"""Defaults of `frames`: a grid of four pictures has 25, which fits a screen; 2^3 - 1 is what every method can make."""
GRID_MOST = 30
"""Frames between two corners."""


class InterpolateJob(InversionJob, FormatJob):
    """Turn pictures into each other: a smooth sequence through two or more, or through noise for a prompt."""

    command: ClassVar[str] = "interpolate"
    several_seeds: ClassVar[bool] = True
    made: ClassVar[str] = "frames/*.*"
    own_defaults: ClassVar[dict[str, dict[str, Any]]] = {"diffmorpher": {"guidance": 1.0}}
    guidance: Annotated[float, Flag("-g", panel=SAMPLING)] = Field(
        7.5,
        ge=0,
        le=100,
        allow_inf_nan=False,
        description="Guidance scale: how strongly prompts steer; 1 is none, and diffmorpher's own default",
    )
    inversion: Annotated[Literal["nti", "ddim"], Flag(panel=INVERSION)] = Field(
        "nti", description="Inversion: null-text (nti) gives pictures back faithfully, ddim is quick and rough"
    )
    images: Annotated[list[str], Flag(positional=True, path=PATH)] = Field(
        [], description="Two or more pictures, inversion files or samples:NAME; none for a noise walk"
    )
    grid: Annotated[bool, Flag()] = Field(
        False, description="Mix three or four pictures: a sheet with the pictures at its corners, instead of films"
    )
    compare: Annotated[bool, Flag()] = Field(
        False, description="Run every method between two pictures, each at its own guidance: one sheet, one table"
    )
    frames: Annotated[int, Flag("-n")] = Field(
        9,
        ge=1,
        le=1000,
        description="In-between frames per pair, and 7 to compare; of a grid along a side, and then 3 by default",
    )
    src: Annotated[list[str], Flag()] = Field(
        [], description="What a picture shows, as a prompt; once for all or once per picture"
    )
    prompt: Annotated[str | None, Flag("-p")] = Field(None, description="Prompt of the noise walk without pictures")
    method: Annotated[MorphName, Flag()] = Field(
        "slerp",
        description="Path between the ends: slerp is the paper's, vae fades, anid fills in from the middle, attention "
        "lets frames look at both ends, freemorph draws all frames towards each other, diffmorpher learns each picture "
        "first",
    )
    lora_steps: Annotated[int, Flag()] = Field(
        200, ge=0, le=10_000, description="For diffmorpher: steps of teaching the model each picture, once per picture"
    )
    loop: Annotated[bool, Flag()] = Field(False, description="Return from the last picture to the first")
    reschedule: Annotated[bool, Flag()] = Field(
        False,
        description="Make the frames twice: the second time at the ratios that make all steps in pixels equally long",
    )
    adain: Annotated[bool, Flag()] = Field(
        False,
        description="Start every frame from noise with the ends' means and deviations, mixed (DiffMorpher)",
    )
    attention_span: Annotated[Literal["first-half", "always"], Flag()] = Field(
        "first-half",
        description="For attention: first-half, its program's, looks at the ends in the first half of the steps and in "
        "the text half of the guidance; always, in all of it",
    )
    fps: Annotated[float, Flag()] = Field(
        8, ge=0.01, le=120, allow_inf_nan=False, description="Frames per second of the videos"
    )
    gif: Annotated[bool, Flag()] = Field(False, description="Also write walk.gif, for places that play nothing else")
    apng: Annotated[bool, Flag()] = Field(False, description="Also write walk.apng, an animation without loss")
    mp4: Annotated[bool, Flag()] = Field(False, description="Also write walk.mp4 (H.264; needs smoothtool[video])")

    @classmethod
    def defaults_beside(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        fewer = [count for kind, count in FEWER_FRAMES.items() if given.get(kind) in (True, "true")]
        return {**super().defaults_beside(given), **({"frames": fewer[0]} if fewer else {})}

    @field_validator("images")
    @classmethod
    def _one_picture_is_no_walk(cls, images: list[str]) -> list[str]:
        if len(images) == 1:
            raise ValueError("hold one picture: give two or more, or none and a prompt")
        return images

    @field_validator("grid")
    @classmethod
    def _a_grid_has_three_or_four_corners(cls, grid: bool, info: ValidationInfo) -> bool:
        images = info.data.get("images")
        if grid and images is not None and len(images) not in (3, 4):
            raise ValueError(f"mixes three or four pictures, not {len(images)}")
        return grid

    @field_validator("compare")
    @classmethod
    def _two_pictures_are_compared(cls, compare: bool, info: ValidationInfo) -> bool:
        images = info.data.get("images")
        if compare and info.data.get("grid"):
            raise ValueError("runs every method between two pictures, and a grid has three or four")
        if compare and images is not None and len(images) != 2:
            raise ValueError(f"runs every method between two pictures, not {len(images)}")
        return compare

    @field_validator("frames")
    @classmethod
    def _a_grid_grows_fast(cls, frames: int, info: ValidationInfo) -> int:
        if info.data.get("grid") and frames > GRID_MOST:
            raise ValueError(
                f"is {frames} along a side: a grid holds {GRID_MOST} at most, {(GRID_MOST + 2) ** 2} in all"
            )
        return frames

    @field_validator("src")
    @classmethod
    def _src_fits_the_pictures(cls, src: list[str], info: ValidationInfo) -> list[str]:
        images = info.data.get("images")
        if images is not None and src and not images:
            raise ValueError("describes pictures, and there are none; a noise walk takes a prompt")
        if images is not None and len(src) not in (0, 1, len(images)):
            raise ValueError(f"is given {len(src)} times for {len(images)} pictures: give it once, or once per picture")
        return src

    @field_validator("prompt")
    @classmethod
    def _prompt_is_for_the_noise_walk(cls, prompt: str | None, info: ValidationInfo) -> str | None:
        if prompt is None and info.data.get("images") == []:
            raise ValueError("is missing: give two or more pictures, or a prompt for a walk through noise")
        if prompt is not None and info.data.get("images"):
            raise ValueError("is for the walk without pictures; describe pictures with src")
        return prompt

    @field_validator("method")
    @classmethod
    def _method_has_what_it_needs(cls, method: str, info: ValidationInfo) -> str:
        images, frames = info.data.get("images"), info.data.get("frames", 1)
        if info.data.get("compare"):
            return method
        if info.data.get("grid") and method != "slerp":
            raise ValueError(f"is {method}, and a grid mixes noises, which is the method slerp")
        if method not in SHARED_INVERSION and images == []:
            raise ValueError(f"is {method}, which goes between pictures: give two, or take slerp or attention")
        if method == "anid" and images is not None and len(images) != 2:
            raise ValueError(f"is anid, which goes between two pictures, not {len(images)}")
        if method == "anid" and (problem := anid_problem(frames)):
            raise ValueError(f"is anid, which {problem}")
        return method

    @field_validator(*READ_BY)
    @classmethod
    def _some_options_are_for_their_methods(cls, value: bool | int | str, info: ValidationInfo) -> bool | int | str:
        name = str(info.field_name)
        methods = READ_BY[name]
        method = info.data.get("method", methods[0])
        if info.data.get("compare"):
            return value
        if value != cls.model_fields[name].default and method not in methods:
            raise ValueError(f"is for the method {' or '.join(methods)}, not for {method}")
        return value

    @field_validator("loop", "reschedule", "adain", "gif", "apng", "mp4")
    @classmethod
    def _a_grid_is_no_path(cls, wanted: bool, info: ValidationInfo) -> bool:
        if wanted and info.data.get("grid"):
            raise ValueError("is for a sequence of frames, and a grid is none")
        if wanted and info.data.get("compare") and info.field_name in ("loop", "gif", "apng", "mp4"):
            raise ValueError("is for one sequence of frames, and all methods are compared")
        return wanted

    @field_validator("loop", "reschedule")
    @classmethod
    def _anid_is_one_way_at_its_own_ratios(cls, wanted: bool, info: ValidationInfo) -> bool:
        if wanted and info.data.get("method") == "anid" and not info.data.get("compare"):
            why = "goes one way" if info.field_name == "loop" else "makes its frames from one another, at fixed ratios"
            raise ValueError(f"does not go with the method anid, which {why}")
        return wanted


def anid_problem(frames: int) -> str:
    """Why ANID cannot make so many in-betweens, or an empty string."""
    if frames & (frames + 1) == 0:
        return ""
    fewer = 2 ** (frames.bit_length() - 1) - 1
    return f"fills in 2^k - 1 frames from the middle: {fewer} or {2 * fewer + 1}, not {frames}"
