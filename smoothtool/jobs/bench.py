"""What can be asked of `smoothtool bench`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator

from smoothtool.jobs.base import ModelJob
from smoothtool.jobs.notation import checked_shard, parse_setting
from smoothtool.jobs.options import COUNT_END, PATH, PATH_OR_NAME, SAMPLING, SEED_END, Flag


class BenchJob(ModelJob):
    """Run a published benchmark: every item made by any method, measured by the benchmark's rules, beside its rows."""

    command: ClassVar[str] = "bench"
    made: ClassVar[str] = "items/**/edited.png"
    benchmark: Annotated[Literal["pie", "morph", "drag"], Flag(positional=True)] = Field(
        description="pie: PIE-Bench's edits; morph: MorphBench's pairs; drag: DragBench's drags"
    )
    folder: Annotated[str, Flag(positional=True, path=PATH)] = Field(
        min_length=1, description="The benchmark's folder, as it is published"
    )
    method: Annotated[str | None, Flag()] = Field(
        None, min_length=1, description="Method of edit, interpolate or drag; by default the command's own"
    )
    inversion: Annotated[str | None, Flag()] = Field(
        None, min_length=1, description="Inversion, as for that command; by default the method's own"
    )
    options: Annotated[list[str], Flag()] = Field(
        [], alias="set", description="Any other option of that command as KEY=VALUE; repeat for more"
    )
    limit: Annotated[int | None, Flag("-n")] = Field(
        None, ge=1, lt=COUNT_END, description="Measure the first so many items only"
    )
    shard: Annotated[str | None, Flag(delivery=True), AfterValidator(checked_shard)] = Field(
        None, description="Make a share of the items only: 1/4 to 4/4, all with the same -o"
    )
    clip: Annotated[str, Flag(path=PATH_OR_NAME, names=("stickers",))] = Field(
        "openai/clip-vit-large-patch14", min_length=1, description="CLIP of the score: stickers, a folder or a hub id"
    )
    dino: Annotated[str, Flag(path=PATH_OR_NAME)] = Field(
        "facebook/dino-vitb8", min_length=1, description="DINO of the structure distance: a folder or a hub id"
    )
    seed: Annotated[int | None, Flag(panel=SAMPLING)] = Field(
        1234, ge=0, lt=SEED_END, description="Seed of every item, as PIE-Bench's program has it"
    )

    @field_validator("options")
    @classmethod
    def _options_have_a_key(cls, options: list[str]) -> list[str]:
        for text in options:
            parse_setting(text)
        return options

    @property
    def goes_on(self) -> bool:
        return True
