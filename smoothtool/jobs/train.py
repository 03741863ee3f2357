"""What can be asked of `smoothtool train`."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from smoothtool.jobs.base import ModelJob
from smoothtool.jobs.options import COUNT_END, PATH_OR_NAME, Flag
from smoothtool.types import LoraInit


class TrainJob(ModelJob):
    """Train a LoRA that makes a model's latent space smooth (or any LoRA, with --lambda 0)."""

    command: ClassVar[str] = "train"
    changes_model: ClassVar[bool] = True
    data: Annotated[str, Flag(positional=True, path=PATH_OR_NAME, names=("stickers:train",))] = Field(
        min_length=1,
        description="Folder with metadata.jsonl, metadata.csv or a .txt beside each picture; webdataset's NAME.tar, "
        "'NAME-{000..011}.tar' or a folder of them; stickers:train",
    )
    max_steps: Annotated[int, Flag("-n")] = Field(1000, ge=1, lt=COUNT_END, description="Optimizer steps")
    batch_size: Annotated[int, Flag("-b")] = Field(4, ge=1, le=4096, description="Pictures per process at once")
    accumulate: Annotated[int, Flag()] = Field(1, ge=1, le=4096, description="Batches added up per optimizer step")
    variation_weight: Annotated[float, Flag()] = Field(
        1.0,
        alias="lambda",
        ge=0,
        allow_inf_nan=False,
        description="Weight of the regulariser; 0 is plain LoRA training",
    )
    every: Annotated[int, Flag()] = Field(
        1, ge=1, le=1000, description="Regularise every K-th step only, with K times the weight, for less time"
    )
    gradient: Annotated[Literal["central", "one-sided", "forward-variation", "double-backward"], Flag()] = Field(
        "central", description="How the regulariser is differentiated; double-backward is the paper's, slow and large"
    )
    relative_step: Annotated[float | None, Flag()] = Field(
        None,
        gt=0,
        le=1,
        description="Length of its finite difference; by default what the model's kind and the precision allow",
    )
    running_mean_start: Annotated[Literal["first-batch", "zero"], Flag()] = Field(
        "first-batch", description="Where the running mean of the variation begins; zero is the paper's program"
    )
    rank: Annotated[int, Flag("-r")] = Field(8, ge=1, le=1024, description="Rank of the LoRA; its alpha is the same")
    init: Annotated[LoraInit, Flag()] = Field(
        "gaussian",
        description="How the LoRA starts: gaussian, N(0, 1/rank^2), is the paper's program, uniform is peft's, smaller "
        "the wider the model",
    )
    full: Annotated[bool, Flag()] = Field(False, description="Train the whole UNet instead of a LoRA")
    learning_rate: Annotated[float, Flag("-l")] = Field(
        1e-4, gt=0, le=1, allow_inf_nan=False, description="Learning rate of AdamW, constant after the warm-up"
    )
    weight_decay: Annotated[float, Flag()] = Field(
        1e-4, ge=0, le=1, allow_inf_nan=False, description="Weight decay of AdamW"
    )
    warmup_steps: Annotated[int, Flag()] = Field(0, ge=0, lt=COUNT_END, description="Steps of linear warm-up")
    max_grad_norm: Annotated[float, Flag()] = Field(1.0, gt=0, description="Longer gradients are cut to this length")
    prompt_dropout: Annotated[float, Flag()] = Field(
        0.0, ge=0, le=1, allow_inf_nan=False, description="Share of samples trained without their caption"
    )
    ema: Annotated[float, Flag()] = Field(
        0.0,
        ge=0,
        lt=1,
        allow_inf_nan=False,
        description="Decay of averaged weights, for example 0.999; 0 keeps none; "
        "begins lower, as (1 + step) / (10 + step)",
    )
    crop: Annotated[Literal["square", "buckets"], Flag()] = Field(
        "square", description="Crop pictures to squares, or to the nearest of several shapes of one area"
    )
    mixed_precision: Annotated[Literal["no", "fp16", "bf16"], Flag()] = Field(
        "no", description="Precision of the passes; bf16 is too coarse for the regulariser's differences"
    )
    compile: Annotated[bool, Flag()] = Field(False, description="Compile the UNet first")
    checkpoint_every: Annotated[int, Flag(delivery=True)] = Field(
        500, ge=1, lt=COUNT_END, description="Steps between checkpoints"
    )
    sample_every: Annotated[int, Flag(delivery=True)] = Field(
        0, ge=0, lt=COUNT_END, description="Steps between sheets of sample walks; 0 makes none"
    )
    tracker: Annotated[Literal["none", "tensorboard", "wandb"], Flag(delivery=True)] = Field(
        "none", description="Show the figures there too (needs smoothtool[tensorboard] or smoothtool[wandb])"
    )
    resume: Annotated[bool, Flag(delivery=True)] = Field(
        False, description="Go on from the newest checkpoint in the output folder, or start"
    )

    @field_validator("full")
    @classmethod
    def _full_stands_alone(cls, full: bool, info: ValidationInfo) -> bool:
        if full and [text for text in info.data.get("lora", []) if text != "none"]:
            raise ValueError("trains the model's own weights, which cannot be saved with a LoRA on them")
        if full and info.data.get("init", "gaussian") != "gaussian":
            raise ValueError(f"trains the model's own weights, and init {info.data['init']} is the start of a LoRA")
        return full

    @field_validator("compile")
    @classmethod
    def _compiled_once_differentiable(cls, compile: bool, info: ValidationInfo) -> bool:
        if compile and info.data.get("gradient") == "double-backward" and info.data.get("variation_weight"):
            raise ValueError("has no second derivative, which --gradient double-backward takes; take central")
        return compile

    @field_validator("gradient")
    @classmethod
    def _checkpointing_recomputes(cls, gradient: str, info: ValidationInfo) -> str:
        if gradient == "double-backward" and info.data.get("gradient_checkpointing") and info.data["variation_weight"]:
            raise ValueError("is double-backward, which gradient_checkpointing would compute otherwise; take central")
        return gradient

    @field_validator("mixed_precision")
    @classmethod
    def _differences_need_precision(cls, mixed_precision: str, info: ValidationInfo) -> str:
        differs = info.data.get("gradient") != "double-backward" and info.data.get("variation_weight")
        if mixed_precision == "bf16" and differs:
            raise ValueError("is bf16, which is too coarse for finite differences; take fp16 or no")
        return mixed_precision
