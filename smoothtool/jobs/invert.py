"""What can be asked of an inversion, and of `smoothtool invert`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field, ValidationInfo, field_validator

from smoothtool.jobs.base import ModelJob
from smoothtool.jobs.options import INVERSION, MODEL, PATH, Flag

InversionName = Literal["nti", "ddim", "npi", "proxnpi", "direct", "fixed-point", "spdinv", "dci", "edict", "belm"]
SOURCE_AS_NULL = ("npi", "proxnpi", "fixed-point", "spdinv", "dci", "edict", "belm")
"""Inversions whose null half is given the source prompt, which leaves no place for a negative one."""
INVERSION_NAMES: tuple[InversionName, ...] = get_args(InversionName)


class InversionJob(ModelJob):
    """What every command that inverts pictures understands."""

    inversion: Annotated[InversionName, Flag(panel=INVERSION)] = Field(
        "nti",
        description="Inversion: null-text (nti) gives pictures back faithfully, ddim is quick and rough, npi to "
        "fixed-point optimise nothing, spdinv and dci solve every step, edict and belm are exact",
    )
    solver: Annotated[Literal["adam", "gauss-newton"], Flag(panel=INVERSION)] = Field(
        "adam",
        description="How null-text inversion optimises: adam, the paper's, comes nearer; gauss-newton is faster",
    )
    inner_steps: Annotated[int, Flag(panel=INVERSION)] = Field(
        10, ge=0, le=1000, description="Most optimisation steps of the adam solver per denoising step"
    )
    null_anchor: Annotated[float, Flag(panel=INVERSION)] = Field(
        0,
        ge=0,
        allow_inf_nan=False,
        description="For gauss-newton: weight that keeps null embeddings near the empty prompt's, such as 1",
    )
    null_trust: Annotated[float, Flag(panel=INVERSION)] = Field(
        0.15,
        gt=0,
        allow_inf_nan=False,
        description="For gauss-newton: how far a null embedding may move in a step, root mean square of its entries",
    )
    fixed_point_solver: Annotated[Literal["anderson", "plain", "adamw"], Flag(panel=INVERSION)] = Field(
        "anderson", description="How spdinv and dci solve a step; adamw is the papers', with gradients"
    )

    @field_validator("null_anchor", "null_trust")
    @classmethod
    def _limits_are_for_gauss_newton(cls, number: float, info: ValidationInfo) -> float:
        asked = number != cls.model_fields[str(info.field_name)].default
        if asked and info.data.get("solver") == "adam":
            raise ValueError("is for the solver gauss-newton: add solver gauss-newton, or leave it out")
        return number

    @field_validator("inversion", check_fields=False)
    @classmethod
    def _null_half_is_free(cls, inversion: str, info: ValidationInfo) -> str:
        if info.data.get("negative") and inversion in SOURCE_AS_NULL:
            raise ValueError(
                f"is {inversion}, which puts the source prompt in the place of the negative one: "
                "leave negative out, or take nti, ddim or direct"
            )
        return inversion


class PictureJob(InversionJob):
    """What every command that inverts one picture understands: several of a batch may go through the UNet together."""

    batch_size: Annotated[int | None, Flag(panel=MODEL, delivery=True)] = Field(
        None,
        ge=1,
        le=1024,
        description="Of a batch, most pictures of one size that go through the UNet together, "
        "halved when memory runs out; by default 4 on a GPU and 1 on a CPU",
    )


class InvertJob(PictureJob):
    """Find the noise that a picture comes from, and show how well the picture comes back."""

    command: ClassVar[str] = "invert"
    made: ClassVar[str] = "reconstruction.png"
    image: Annotated[str, Flag(positional=True, path=PATH)] = Field(description="A picture or samples:NAME")
    src: Annotated[str, Flag()] = Field("", description="What the picture shows, as a prompt")
    compare: Annotated[bool, Flag()] = Field(False, description="Run every inversion: one sheet, one table")
