"""What can be asked of the commands that measure: `istd`, `eval` and `tables`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from smoothtool.jobs.base import ModelJob, ReportJob
from smoothtool.jobs.notation import checked_shard, parse_lora
from smoothtool.jobs.options import COUNT_END, PATH, PATH_OR_LORA, PATH_OR_NAME, SAMPLING, SEED_END, Flag
from smoothtool.types import LoraInit


class IstdJob(ModelJob):
    """Measure how smooth a model is: ISTD over many prompts, and what a LoRA changes about it."""

    command: ClassVar[str] = "istd"
    changes_model: ClassVar[bool] = True
    made: ClassVar[str] = "sheet-*.png"
    prompts: Annotated[str | None, Flag("-p", path=PATH)] = Field(
        None, description="Prompts, one a line, or COCO's captions .json; stickers has its own list"
    )
    n: Annotated[int, Flag("-n")] = Field(500, ge=1, lt=COUNT_END, description="How many prompts to walk under")
    frames: Annotated[int, Flag()] = Field(11, ge=3, le=1000, description="Pictures per walk, both ends included")
    compare_lora: Annotated[list[str], Flag(path=PATH_OR_LORA, names=("default",))] = Field(
        [], description="Measure again with this LoRA (PATH[:SCALE]) on top, in pairs; default: with the model's own"
    )
    std: Annotated[Literal["population", "sample"], Flag()] = Field(
        "population", description="Standard deviation of a walk's adjacent distances"
    )
    pixel_range: Annotated[Literal["0..1", "-1..1", "0..255"], Flag()] = Field(
        "0..1", description="Pixel values in which distances are taken"
    )
    batch_size: Annotated[int, Flag(delivery=True)] = Field(
        22, ge=1, le=4096, description="Pictures sampled at once, as many whole walks as fit; changes the speed alone"
    )
    shard: Annotated[str | None, Flag(delivery=True), AfterValidator(checked_shard)] = Field(
        None, description="Walk under a share of the prompts only: 1/4 to 4/4, all with the same -o"
    )
    seed: Annotated[int | None, Flag(panel=SAMPLING)] = Field(
        0, ge=0, lt=SEED_END, description="Seed of all noise: models are compared on the same noise"
    )

    @field_validator("compare_lora")
    @classmethod
    def _compared_scales_are_numbers(cls, compare_lora: list[str]) -> list[str]:
        for text in compare_lora:
            parse_lora(text)
        return compare_lora

    @property
    def goes_on(self) -> bool:
        return True


class EvalJob(ReportJob):
    """Measure pictures that exist: reconstructions, Frechet distance, CLIP score, smoothness of sequences."""

    command: ClassVar[str] = "eval"
    metric: Annotated[Literal["recon", "fid", "clip", "walk"], Flag(positional=True)] = Field(
        description="recon and fid compare two folders, clip needs prompts, walk takes folders of frames"
    )
    folders: Annotated[list[str], Flag(positional=True, path=PATH)] = Field(
        min_length=1, description="Folders of pictures"
    )
    prompts: Annotated[str | None, Flag("-p", path=PATH)] = Field(
        None,
        description="For clip: a file with one prompt per picture, or COCO's captions; else each picture's own .txt",
    )
    features: Annotated[Literal["auto", "inception", "clip"], Flag()] = Field(
        "auto", description="For fid: auto is Inception where it is installed, else CLIP, and the report says which"
    )
    clip: Annotated[str, Flag(path=PATH_OR_NAME, names=("stickers",))] = Field(
        "stickers", min_length=1, description="CLIP: stickers (small, embedded), a folder, or a hub id on this machine"
    )

    @field_validator("prompts", "features")
    @classmethod
    def _one_metric_reads_it(cls, value: str | None, info: ValidationInfo) -> str | None:
        name, metric = str(info.field_name), str(info.data.get("metric"))
        reader = {"prompts": "clip", "features": "fid"}[name]
        if value != cls.model_fields[name].default and metric not in (reader, "None"):
            raise ValueError(f"is for the metric {reader}, not for {metric}")
        return value

    @field_validator("folders")
    @classmethod
    def _folders_fit_the_metric(cls, folders: list[str], info: ValidationInfo) -> list[str]:
        wanted = {"recon": 2, "fid": 2, "clip": 1}.get(str(info.data.get("metric")), len(folders))
        if len(folders) != wanted:
            raise ValueError(f"are {len(folders)}, {info.data['metric']} takes {wanted}")
        return folders


class TablesJob(ModelJob):
    """Measure the tables of the paper, and its baselines, on a model of your own, beside the paper's figures."""

    command: ClassVar[str] = "tables"
    data: Annotated[str, Flag(positional=True, path=PATH_OR_NAME, names=("stickers",))] = Field(
        "stickers", min_length=1, description="Captioned pictures to measure against; stickers draws held-out scenes"
    )
    prompts: Annotated[str | None, Flag("-p", path=PATH)] = Field(
        None, description="Prompts of ISTD, one a line, or COCO's captions .json; stickers has its own list"
    )
    n: Annotated[int, Flag("-n")] = Field(500, ge=1, lt=COUNT_END, description="How many prompts ISTD walks under")
    pictures: Annotated[int, Flag()] = Field(
        500, ge=2, lt=COUNT_END, description="Pictures made per model, and real ones they are compared with"
    )
    inverted: Annotated[int, Flag()] = Field(
        20, ge=1, lt=COUNT_END, description="Pictures that are inverted and given back"
    )
    pairs: Annotated[int, Flag()] = Field(
        4, ge=1, lt=COUNT_END, description="Pairs of pictures that are walked between"
    )
    smooth: Annotated[str, Flag(path=PATH_OR_LORA, names=("default",))] = Field(
        "default",
        min_length=1,
        description="Smooth LoRA as PATH[:SCALE]; default is the model's own, else one trained here",
    )
    train_data: Annotated[str, Flag(path=PATH_OR_NAME, names=("stickers:train",))] = Field(
        "stickers:train", min_length=1, description="Data to train on, as train"
    )
    train_steps: Annotated[int, Flag()] = Field(
        2000, ge=0, lt=COUNT_END, description="Steps of every training; 0 leaves what needs one empty"
    )
    train_batch_size: Annotated[int, Flag()] = Field(16, ge=1, le=4096, description="Pictures per training step")
    learning_rate: Annotated[float, Flag()] = Field(
        1e-4, gt=0, le=1, allow_inf_nan=False, description="Learning rate of every training"
    )
    variation_weight: Annotated[float, Flag()] = Field(
        1.0,
        alias="lambda",
        gt=0,
        allow_inf_nan=False,
        description="Weight of the regulariser in table 4, and in the smooth model where that is trained here; table 3 "
        "has a tenth of it, it, and ten times it",
    )
    init: Annotated[LoraInit, Flag()] = Field("gaussian", description="How every LoRA trained here starts, as train")
    clip: Annotated[str, Flag(path=PATH_OR_NAME, names=("stickers",))] = Field(
        "stickers", min_length=1, description="CLIP: stickers (small, embedded), a folder, or a hub id on this machine"
    )
    seed: Annotated[int | None, Flag(panel=SAMPLING)] = Field(
        0, ge=0, lt=SEED_END, description="Seed of all noise: models are compared on the same noise"
    )

    @field_validator("smooth")
    @classmethod
    def _smooth_scale_is_a_number(cls, smooth: str) -> str:
        parse_lora(smooth)
        return smooth

    @property
    def goes_on(self) -> bool:
        return True
