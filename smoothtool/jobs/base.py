"""What several commands understand: the output, the model, the sampling."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo

from smoothtool.jobs.notation import parse_lora, parse_size
from smoothtool.jobs.options import (
    MODEL,
    OUTPUT,
    PANELS,
    PATH_OR_LORA,
    PATH_OR_MODEL,
    SAMPLING,
    SEED_END,
    Flag,
    demand_of,
    flag_of,
    key_of,
    kind_of,
)

if TYPE_CHECKING:
    from typing_extensions import Self

LONGEST_PROMPT = 10_000


class Job(BaseModel):
    """A subcommand's settings. Lists may be given as one value; numbers may be given as text."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, coerce_numbers_to_str=True, validate_default=True
    )
    command: ClassVar[str]
    own_defaults: ClassVar[dict[str, dict[str, Any]]] = {}
    """By `method`, the defaults that its authors' program has where they are not the field's."""
    made: ClassVar[str] = "*.png"
    """The pictures that it leaves in its folder, as a glob."""
    several_seeds: ClassVar[bool] = False
    """Whether the command line takes several seeds, each of which makes a result of its own."""
    changes_model: ClassVar[bool] = False
    """Whether the model is another one afterwards, so that the next job has to load its own."""
    _origins: dict[str, str] = PrivateAttr(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        """The same command with the same options, wherever their values come from."""
        return isinstance(other, Job) and type(self) is type(other) and dict(iter(self)) == dict(iter(other))

    @property
    def origins(self) -> dict[str, str]:
        """Of options that nobody gave and that are not smoothtool's own default either: why they are as they are."""
        return self._origins

    def completed(self, values: Mapping[str, Any], origins: Mapping[str, str]) -> Self:
        """The same job with valid `values` that nobody gave, and where each of them comes from."""
        job = self.model_copy(update=dict(values))
        job._origins = dict(origins)
        return job

    @classmethod
    def defaults_beside(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Defaults that are others because of what was given: those of its method."""
        usual = cls.model_fields["method"].default if "method" in cls.model_fields else None
        return cls.own_defaults.get(str(given.get("method", usual)), {})

    @model_validator(mode="wrap")
    @classmethod
    def _a_method_brings_its_own_defaults(cls, given: Any, build: Any) -> Any:
        """Like other defaults they count as not given, so that the user's settings are asked first."""
        brought = cls.defaults_beside(given) if isinstance(given, dict) else {}
        own = {key: value for key, value in brought.items() if key not in given}
        job = build({**own, **given} if own else given)
        job.__pydantic_fields_set__.difference_update(own)
        return job

    @field_validator("*", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any, info: ValidationInfo) -> Any:
        """`src: a fox` means `src: [a fox]`; a truth value is no number, although Python thinks so."""
        field = cls.model_fields[str(info.field_name)]
        kind = kind_of(field)
        if kind is list and isinstance(value, (str, Path)):
            return [str(value)]
        if kind is Path and isinstance(value, (str, Path)):
            return os.path.expanduser(value)
        if kind is not bool and isinstance(value, bool):
            raise ValueError(f"is {str(value).lower()}, not {demand_of(field)}")
        return str(value) if kind is str and isinstance(value, Path) else value

    @field_validator("image", check_fields=False)
    @classmethod
    def _image_has_a_name(cls, image: str | None) -> str | None:
        if image == "":  # a length in the field would refuse names that are no UTF-8, which files may have
            raise ValueError("is empty, not a text")
        return image

    @field_validator("src", "trg", "prompt", "src_sentence", "trg_sentence", "negative", check_fields=False)
    @classmethod
    def _prompts_are_text(cls, prompts: str | list[str] | None) -> str | list[str] | None:
        for text in [prompts] if isinstance(prompts, str) else prompts or []:
            if any("\ud800" <= letter <= "\udfff" for letter in text):
                raise ValueError("is not UTF-8: a prompt has to be text")
            if len(text) > LONGEST_PROMPT:
                raise ValueError(f"has {len(text):,} letters, of which a model reads some 300: shorten it")
        return prompts

    @property
    def goes_on(self) -> bool:
        """Whether a run that was stopped goes on in its folder when the same command is given again."""
        return False

    def settings(self) -> dict[str, Any]:
        """Every option that has a part in the result, by its name in recipes, as plain data."""
        kept = {name: key_of(name, field) for name, field in fields_of(type(self)) if not flag_of(field).delivery}
        plain = self.model_dump(mode="json")
        return {key: plain[name] for name, key in kept.items()}

    def handover(self) -> dict[str, Any]:
        """The options without a part in the result that were set, but for the place: what makes a plan the same run."""
        own = {name: field for name, field in fields_of(type(self)) if flag_of(field).delivery and name != "output"}
        plain = self.model_dump(mode="json", exclude_defaults=True)
        return {key_of(name, field): plain[name] for name, field in own.items() if name in plain}

    def recipe(self) -> dict[str, Any]:
        """The recipe that makes the same result again: what `job.yaml` holds."""
        given = {key: value for key, value in self.settings().items() if value is not None}
        return {"jobs": [{"command": self.command, **given}]}


class ReportJob(Job):
    """What every command that leaves a folder with a report understands."""

    _lent: Mapping[str, str] = PrivateAttr(default_factory=dict)

    output: Annotated[Path | None, Flag("-o", panel=OUTPUT, delivery=True)] = Field(
        None, description="Folder for the results; by default one in smoothtool-out, or in the `output` of the settings"
    )
    force: Annotated[bool, Flag("-f", panel=OUTPUT, delivery=True)] = Field(
        False, description="Write into an output folder that already has results"
    )
    json_output: Annotated[bool, Flag(panel=OUTPUT, delivery=True)] = Field(
        False, alias="json", description="Print the report as one JSON document instead of the folder"
    )

    @property
    def lent(self) -> Mapping[str, str]:
        """The pictures that Python lent: their temporary paths, and the names that the result keeps them by."""
        return self._lent

    def lending(self, pictures: Mapping[str, str]) -> Self:
        """The same job, whose options name these pictures by their temporary paths."""
        job = self.model_copy()
        job._lent = pictures
        return job


class ModelJob(ReportJob):
    """What every command that runs a model understands."""

    model: Annotated[str, Flag("-m", panel=MODEL, path=PATH_OR_MODEL, names=("auto",))] = Field(
        "auto",
        min_length=1,
        description="Model: a name or hub id, also with @REVISION, a diffusers folder or a .safetensors file",
    )
    lora: Annotated[list[str], Flag(panel=MODEL, path=PATH_OR_LORA, names=("none",))] = Field(
        [],
        description="LoRA as PATH[:SCALE], or by its name in smoothtool models list; repeat to stack; none switches "
        "off the model's own",
    )
    device: Annotated[str, Flag(panel=MODEL, wants="auto, cpu, mps, cuda or cuda:N")] = Field(
        "auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="Where to compute: auto, cpu, mps, cuda or cuda:N"
    )
    dtype: Annotated[Literal["auto", "float32", "float16", "bfloat16"], Flag(panel=MODEL)] = Field(
        "auto", description="Precision of the weights; auto is float32 on a CPU and float16 elsewhere"
    )
    offload: Annotated[bool, Flag(panel=MODEL, delivery=True)] = Field(
        False,
        description="Keep parts of the model on the GPU only while they are used; on by itself when memory runs out",
    )
    vae_tiling: Annotated[bool, Flag(panel=MODEL, delivery=True)] = Field(
        False, description="Run the VAE strip by strip, for the same picture; on by itself when memory runs out"
    )
    gradient_checkpointing: Annotated[bool, Flag(panel=MODEL, delivery=True)] = Field(
        False,
        description="Compute again what a backward pass needs instead of keeping it: null-text inversion, drag, "
        "training; on by itself when memory runs out",
    )
    seed: Annotated[int | None, Flag(panel=SAMPLING)] = Field(
        None, ge=0, lt=SEED_END, description="Seed of all noise; drawn and recorded when not given"
    )
    steps: Annotated[int, Flag(panel=SAMPLING)] = Field(50, ge=1, le=999, description="Denoising steps")
    guidance: Annotated[float, Flag("-g", panel=SAMPLING)] = Field(
        7.5, ge=0, le=100, allow_inf_nan=False, description="Guidance scale: how strongly prompts steer; 1 is none"
    )
    negative: Annotated[str, Flag(panel=SAMPLING)] = Field(
        "", description="Negative prompt: what guidance leads away from; by default nothing in particular"
    )
    size: Annotated[str | None, Flag(panel=SAMPLING)] = Field(
        None,
        description="Working size in pixels: a longest side (512) or WIDTHxHEIGHT; by default the pictures' own, "
        "or the model's where they are far from it or there are none",
    )

    def model_settings(self) -> dict[str, Any]:
        """The options of model and sampling, by field: what a job hands on to the jobs that it is made of."""
        return {name: getattr(self, name) for name in ModelJob.model_fields if name not in ReportJob.model_fields}

    @field_validator("size")
    @classmethod
    def _size_is_one_or_two_sides(cls, size: str | None) -> str | None:
        if size is not None:
            parse_size(size)
        return size

    @field_validator("lora")
    @classmethod
    def _lora_scales_are_numbers(cls, lora: list[str]) -> list[str]:
        if "none" in lora and len(lora) > 1:
            raise ValueError("has none beside others: none stands alone and switches off the model's own LoRA")
        for text in lora:
            parse_lora(text)
        return lora


class FormatJob(ModelJob):
    """What every command that makes pictures understands."""

    format: Annotated[Literal["png", "jpg", "webp", "avif"], Flag(panel=OUTPUT)] = Field(
        "png", description="Kind of file of the pictures that are made; all carry their settings"
    )
    quality: Annotated[int | None, Flag(panel=OUTPUT)] = Field(
        None, ge=1, le=100, description="Quality of jpg, webp and avif; 95 by default"
    )

    @field_validator("quality")
    @classmethod
    def _png_has_no_quality(cls, quality: int | None, info: ValidationInfo) -> int | None:
        if quality is not None and info.data.get("format") == "png":
            raise ValueError("is for jpg, webp and avif: png keeps every pixel")
        return quality


@cache
def fields_of(model: type[Job]) -> tuple[tuple[str, FieldInfo], ...]:
    """Name and field in the order of the help: positional first, then panel by panel."""

    def rank(item: tuple[str, FieldInfo]) -> tuple[bool, int]:
        flag = flag_of(item[1])
        return not flag.positional, PANELS.index(flag.panel)

    return tuple(sorted(model.model_fields.items(), key=rank))
