"""What was asked: one settings model per subcommand.

One field is one flag, one recipe key, one Python keyword and one key of the report: a new option is written here and
nowhere else. A new command is one class and one line in `JOBS`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from smoothtool.errors import UsageError, closest
from smoothtool.options import (
    INVERSION,
    MODEL,
    OUTPUT,
    PANELS,
    SAMPLING,
    SEED_END,
    Flag,
    demand_of,
    flag_of,
    key_of,
    kind_of,
    label_of,
)

DEFAULT_SOLVER: Literal["adam", "gauss-newton"] = "gauss-newton"
InversionName = Literal["nti", "ddim", "npi", "proxnpi", "direct", "fixed-point", "edict", "belm"]
INVERSION_NAMES: tuple[InversionName, ...] = get_args(InversionName)
SIDE_PX = range(16, 8193)
"""Sides a picture may be asked for: under 16 no model has latents left, over 8192 no machine has memory left."""


class Job(BaseModel):
    """A subcommand's settings. Lists may be given as one value; numbers may be given as text."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, populate_by_name=True, coerce_numbers_to_str=True, validate_default=True
    )
    command: ClassVar[str]

    @field_validator("*", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any, info: ValidationInfo) -> Any:
        """`src: a fox` means `src: [a fox]`; a truth value is no number, although Python thinks so."""
        kind = kind_of(cls.model_fields[str(info.field_name)])
        if kind is list and isinstance(value, (str, Path)):
            return [str(value)]
        if kind is not bool and isinstance(value, bool):
            raise ValueError("")
        return str(value) if kind is str and isinstance(value, Path) else value

    def settings(self) -> dict[str, Any]:
        """Every option that has a part in the result, by its name in recipes, as plain data."""
        kept = {name: key_of(name, field) for name, field in fields_of(type(self)) if not flag_of(field).delivery}
        plain = self.model_dump(mode="json")
        return {key: plain[name] for name, key in kept.items()}

    def recipe(self) -> dict[str, Any]:
        """The recipe that makes the same result again: what `job.yaml` holds."""
        given = {key: value for key, value in self.settings().items() if value is not None}
        return {"jobs": [{"command": self.command, **given}]}


class ReportJob(Job):
    """What every command that leaves a folder with a report understands."""

    output: Annotated[Path | None, Flag("-o", panel=OUTPUT, delivery=True)] = Field(
        None, description="Folder for the results; one under smoothtool-out by default"
    )
    force: Annotated[bool, Flag("-f", panel=OUTPUT, delivery=True)] = Field(
        False, description="Write into an output folder that already has results"
    )
    json_output: Annotated[bool, Flag(panel=OUTPUT, delivery=True)] = Field(
        False, alias="json", description="Print the report as one JSON document instead of the folder"
    )


class ModelJob(ReportJob):
    """What every command that runs a model understands."""

    model: Annotated[str, Flag("-m", panel=MODEL)] = Field(
        "auto", min_length=1, description="Model: a name, a hub id, a diffusers folder or a .safetensors file"
    )
    lora: Annotated[list[str], Flag(panel=MODEL)] = Field(
        [], description="LoRA as PATH[:SCALE]; repeat to stack; none switches off the model's own"
    )
    device: Annotated[str, Flag(panel=MODEL, wants="auto, cpu, mps, cuda or cuda:N")] = Field(
        "auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="Where to compute: auto, cpu, mps, cuda or cuda:N"
    )
    dtype: Annotated[Literal["auto", "float32", "float16", "bfloat16"], Flag(panel=MODEL)] = Field(
        "auto", description="Precision of the weights; auto is float32 on a CPU and float16 elsewhere"
    )
    seed: Annotated[int | None, Flag(panel=SAMPLING)] = Field(
        None, ge=0, lt=SEED_END, description="Seed of all noise; drawn and recorded when not given"
    )
    steps: Annotated[int, Flag(panel=SAMPLING)] = Field(50, ge=1, le=1000, description="Denoising steps")
    guidance: Annotated[float, Flag("-g", panel=SAMPLING)] = Field(
        7.5, ge=0, le=100, allow_inf_nan=False, description="Guidance scale: how strongly prompts steer; 1 is none"
    )
    size: Annotated[str | None, Flag(panel=SAMPLING)] = Field(
        None, description="Working size in pixels: a longest side (512) or WIDTHxHEIGHT; the pictures' own by default"
    )

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


class InversionJob(ModelJob):
    """What every command that inverts pictures understands."""

    inversion: Annotated[InversionName, Flag(panel=INVERSION)] = Field(
        "nti",
        description="Inversion: null-text (nti) gives pictures back faithfully, ddim is quick and rough, npi to "
        "fixed-point optimise nothing, edict and belm are exact",
    )
    solver: Annotated[Literal["adam", "gauss-newton"], Flag(panel=INVERSION)] = Field(
        DEFAULT_SOLVER, description="How null-text inversion optimises; adam is the paper's"
    )
    inner_steps: Annotated[int, Flag(panel=INVERSION)] = Field(
        10, ge=0, le=1000, description="Most optimisation steps of null-text inversion per denoising step"
    )


class InterpolateJob(InversionJob):
    """Turn pictures into each other: a smooth sequence through two or more, or through noise for a prompt."""

    command: ClassVar[str] = "interpolate"
    inversion: Annotated[Literal["nti", "ddim"], Flag(panel=INVERSION)] = Field(
        "nti", description="Inversion: null-text (nti) gives pictures back faithfully, ddim is quick and rough"
    )
    images: Annotated[list[str], Flag(positional=True)] = Field(
        [], description="Two or more pictures, inversion files or samples:NAME; none for a noise walk"
    )
    frames: Annotated[int, Flag("-n")] = Field(9, ge=1, le=1000, description="In-between frames per pair")
    src: Annotated[list[str], Flag()] = Field(
        [], description="What a picture shows, as a prompt; once for all or once per picture"
    )
    prompt: Annotated[str | None, Flag("-p")] = Field(None, description="Prompt of the noise walk without pictures")
    method: Annotated[Literal["slerp", "vae", "anid", "attention"], Flag()] = Field(
        "slerp",
        description="Path between the ends: slerp is the paper's, vae fades, anid fills in from the middle, attention "
        "lets frames look at both ends",
    )
    loop: Annotated[bool, Flag()] = Field(False, description="Return from the last picture to the first")
    reschedule: Annotated[bool, Flag()] = Field(
        False, description="Make the frames twice: the second time at the ratios that make all steps equally large"
    )
    fps: Annotated[float, Flag()] = Field(
        8, gt=0, le=120, allow_inf_nan=False, description="Frames per second of the videos"
    )

    @field_validator("images")
    @classmethod
    def _one_picture_is_no_walk(cls, images: list[str]) -> list[str]:
        if len(images) == 1:
            raise ValueError("hold one picture: give two or more, or none and a prompt")
        return images

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
        if method in ("vae", "anid") and images == []:
            raise ValueError(f"is {method}, which goes between pictures: give two, or take slerp or attention")
        if method == "anid" and images is not None and len(images) != 2:
            raise ValueError(f"is anid, which goes between two pictures, not {len(images)}")
        if method == "anid" and frames & (frames + 1):
            fewer = 2 ** (frames.bit_length() - 1) - 1
            raise ValueError(
                f"is anid, which fills in 2^k - 1 frames from the middle: {fewer} or {2 * fewer + 1}, not {frames}"
            )
        return method

    @field_validator("loop", "reschedule")
    @classmethod
    def _anid_is_one_way_at_its_own_ratios(cls, wanted: bool, info: ValidationInfo) -> bool:
        if wanted and info.data.get("method") == "anid":
            why = "goes one way" if info.field_name == "loop" else "makes its frames from one another, at fixed ratios"
            raise ValueError(f"does not go with the method anid, which {why}")
        return wanted


class InvertJob(InversionJob):
    """Find the noise that a picture comes from, and show how well the picture comes back."""

    command: ClassVar[str] = "invert"
    image: Annotated[str, Flag(positional=True)] = Field(min_length=1, description="A picture or samples:NAME")
    src: Annotated[str, Flag()] = Field("", description="What the picture shows, as a prompt")
    compare: Annotated[bool, Flag()] = Field(False, description="Run every inversion: one sheet, one table")


EditName = Literal["switch", "sdedit", "p2p", "pnp", "pix2pix-zero", "cycle", "disentangle", "masactrl"]
_SINGLE = ("nti", "ddim", "npi", "proxnpi", "direct", "fixed-point")
EDIT_INVERSIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "switch": ((*_SINGLE, "edict", "belm"), ""),
    "p2p": (_SINGLE, "it samples source and target side by side, and edict and belm carry two latents of their own"),
    "masactrl": (
        _SINGLE,
        "it samples source and target side by side, and edict and belm carry two latents of their own",
    ),
    "pnp": (("ddim", "fixed-point"), "it reads the latents of a plain inversion under the empty prompt"),
    "pix2pix-zero": ((), "it brings its own inversion, with regularised noise"),
    "disentangle": (("nti", "ddim", "npi", "fixed-point"), "it samples anew under mixed prompts, from the noise end"),
    "sdedit": ((), "it starts from noise added to the picture and inverts nothing"),
    "cycle": ((), "it starts from noise added to the picture and inverts nothing"),
}
"""Per editing method the inversions that make sense, its own choice first, and why the others do not."""
NEED_SOURCE = ("p2p", "pix2pix-zero", "disentangle")
"""Editing methods that compare two prompts."""


class EditJob(InversionJob):
    """Change a picture by words: what it shows, and what it should show."""

    command: ClassVar[str] = "edit"
    image: Annotated[str, Flag(positional=True)] = Field(
        min_length=1, description="A picture, an inversion file or samples:NAME"
    )
    src: Annotated[str, Flag()] = Field("", description="What the picture shows, as a prompt")
    trg: Annotated[list[str], Flag()] = Field(
        min_length=1, description="What it should show, as a prompt; repeat for several edits"
    )
    compare: Annotated[bool, Flag()] = Field(False, description="Run every method: one sheet, one table")
    method: Annotated[EditName, Flag()] = Field("switch", description="How to edit; switch is the paper's")
    ratio: Annotated[list[str], Flag("-r")] = Field(
        [], description="For switch: part of the steps that follow the target, 0 to 1, by default 0.8; 0.6,0.8 for both"
    )
    inversion: Annotated[Literal["auto", InversionName], Flag(panel=INVERSION)] = Field(  # type: ignore[assignment]
        "auto", description="Inversion, as for invert; auto is the method's own choice"
    )
    strength: Annotated[float, Flag()] = Field(
        0.8, ge=0, le=1, allow_inf_nan=False, description="For sdedit and cycle: how far towards noise the edit begins"
    )
    cross_steps: Annotated[float, Flag()] = Field(
        0.4, ge=0, le=1, allow_inf_nan=False, description="For p2p: part of the steps with the source's cross-attention"
    )
    self_steps: Annotated[float, Flag()] = Field(
        0.6, ge=0, le=1, allow_inf_nan=False, description="For p2p: part of the steps with the source's self-attention"
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
    clip: Annotated[str, Flag()] = Field(
        "stickers", min_length=1, description="CLIP: stickers (small, embedded), a folder, or a hub id on this machine"
    )

    @field_validator("trg")
    @classmethod
    def _targets_say_something(cls, trg: list[str]) -> list[str]:
        if not all(text.strip() for text in trg):
            raise ValueError("is empty: say what the picture should show")
        return trg

    @field_validator("method")
    @classmethod
    def _method_has_what_it_needs(cls, method: str, info: ValidationInfo) -> str:
        if method in NEED_SOURCE and not str(info.data.get("src", " ")).strip():
            raise ValueError(f"is {method}, which compares two prompts: say with src what the picture shows")
        inversion, compare = info.data.get("inversion", "auto"), info.data.get("compare", False)
        fitting, why = EDIT_INVERSIONS[method]
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
        if ratio and info.data.get("method", "switch") != "switch":
            raise ValueError(f"is for the method switch, not for {info.data['method']}")
        for text in ratio:
            parse_fraction(text)
        return ratio

    @field_validator("blend", "reweight")
    @classmethod
    def _words_are_in_the_prompts(cls, words: list[str], info: ValidationInfo) -> list[str]:
        if words and info.data.get("method", "p2p") != "p2p":
            raise ValueError(f"is for the method p2p, not for {info.data['method']}")
        targets = [str(text).lower() for text in info.data.get("trg", [])]
        prompts = [*targets, str(info.data.get("src", "")).lower()] if info.field_name == "blend" else targets
        for text in words:
            word = text if info.field_name == "blend" else parse_weight(text)[0]
            if prompts and not any(word.lower() in prompt for prompt in prompts):
                raise ValueError(f"names {word!r}, which is not in {' / '.join(prompts)}")
        return words


class DragJob(ModelJob):
    """Drag parts of a picture to other places: of a picture file, or of one made from a prompt."""

    command: ClassVar[str] = "drag"
    image: Annotated[str | None, Flag(positional=True)] = Field(
        None, min_length=1, description="A picture or samples:NAME; none to drag in a picture made from a prompt"
    )
    bench: Annotated[Path | None, Flag()] = Field(
        None, description="Drag every item of a folder in DragBench's layout, and measure"
    )
    prompt: Annotated[str | None, Flag("-p")] = Field(None, description="Prompt of the picture to make and drag in")
    src: Annotated[str, Flag()] = Field("", description="What the picture shows, as a prompt")
    pick: Annotated[bool, Flag(delivery=True)] = Field(
        False, description="Click the points and paint the mask on a page in the browser"
    )
    point: Annotated[list[str], Flag()] = Field(
        [], description="From where to where, X,Y:X,Y in pixels from the picture's top left; repeat for more"
    )
    points: Annotated[Path | None, Flag()] = Field(
        None, description="Points from a file: points.json, or DragBench's meta_data.pkl"
    )
    mask: Annotated[Path | None, Flag()] = Field(
        None, description="Picture that is light where the picture may change; everywhere by default"
    )
    fit_mask: Annotated[bool, Flag()] = Field(False, description="Resize a mask of another size")
    method: Annotated[Literal["dragdiffusion", "gooddrag", "fastdrag"], Flag()] = Field(
        "dragdiffusion", description="gooddrag is better and slower, fastdrag rougher and done at once"
    )
    lora_steps: Annotated[int, Flag()] = Field(
        80, ge=0, le=10_000, description="Steps of teaching the model the picture first; 0 for none"
    )
    strength: Annotated[float, Flag()] = Field(
        0.7, gt=0, le=1, allow_inf_nan=False, description="How far towards noise the picture is opened for dragging"
    )
    iterations: Annotated[int | None, Flag()] = Field(
        None, ge=1, le=10_000, description="Most drag iterations; 80 for dragdiffusion and 70 for gooddrag by default"
    )

    @field_validator("bench", "prompt")
    @classmethod
    def _one_source_of_pictures(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and any(info.data.get(other) for other in ("image", "bench")):
            raise ValueError("is instead of a picture file, not beside it")
        if (
            value is None
            and info.field_name == "prompt"
            and not any(info.data.get(key, 1) for key in ("image", "bench"))
        ):
            raise ValueError("is missing: give a picture, or a prompt for a picture to drag in")
        return value

    @field_validator("point")
    @classmethod
    def _points_are_places(cls, point: list[str]) -> list[str]:
        for text in point:
            parse_point(text)
        return point

    @field_validator("points")
    @classmethod
    def _points_come_from_one_place(cls, points: Path | None, info: ValidationInfo) -> Path | None:
        sources = [name for name in ("bench", "pick", "point") if info.data.get(name, [])]
        if points is not None and sources:
            raise ValueError(f"is instead of {sources[0]}, not beside it")
        if points is None and not sources and "point" in info.data:
            raise ValueError("is missing: give point as X,Y:X,Y, a points file, or pick to click them")
        return points


class IstdJob(ModelJob):
    """Measure how smooth a model is: ISTD over many prompts, and what a LoRA changes about it."""

    command: ClassVar[str] = "istd"
    prompts: Annotated[str | None, Flag("-p")] = Field(
        None, description="Prompts, one a line, or COCO's captions .json; stickers has its own list"
    )
    n: Annotated[int, Flag("-n")] = Field(500, ge=1, description="How many prompts to walk under")
    frames: Annotated[int, Flag()] = Field(11, ge=3, le=1000, description="Pictures per walk, both ends included")
    compare_lora: Annotated[list[str], Flag()] = Field(
        [], description="Measure again with this LoRA (PATH[:SCALE]) on top, in pairs; default is the model's own"
    )
    std: Annotated[Literal["population", "sample"], Flag()] = Field(
        "population", description="Standard deviation of a walk's adjacent distances"
    )
    pixel_range: Annotated[Literal["0..1", "-1..1", "0..255"], Flag()] = Field(
        "0..1", description="Pixel values in which distances are taken"
    )
    batch_size: Annotated[int, Flag(delivery=True)] = Field(
        33, ge=1, le=4096, description="Pictures sampled at once, as many whole walks as fit; changes the speed alone"
    )
    shard: Annotated[str | None, Flag(delivery=True)] = Field(
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

    @field_validator("shard")
    @classmethod
    def _shard_is_a_share(cls, shard: str | None) -> str | None:
        parse_shard(shard)
        return shard


class EvalJob(ReportJob):
    """Measure pictures that exist: reconstructions, Frechet distance, CLIP score, smoothness of sequences."""

    command: ClassVar[str] = "eval"
    metric: Annotated[Literal["recon", "fid", "clip", "walk"], Flag(positional=True)] = Field(
        description="recon and fid compare two folders, clip needs prompts, walk takes folders of frames"
    )
    folders: Annotated[list[str], Flag(positional=True)] = Field(min_length=1, description="Folders of pictures")
    prompts: Annotated[str | None, Flag("-p")] = Field(
        None,
        description="For clip: a file with one prompt per picture, or COCO's captions; else each picture's own .txt",
    )
    features: Annotated[Literal["auto", "inception", "clip"], Flag()] = Field(
        "auto", description="For fid: auto is Inception where it is installed, else CLIP, and the report says which"
    )
    clip: Annotated[str, Flag()] = Field(
        "stickers", min_length=1, description="CLIP: stickers (small, embedded), a folder, or a hub id on this machine"
    )

    @field_validator("folders")
    @classmethod
    def _folders_fit_the_metric(cls, folders: list[str], info: ValidationInfo) -> list[str]:
        wanted = {"recon": 2, "fid": 2, "clip": 1}.get(str(info.data.get("metric")), len(folders))
        if len(folders) != wanted:
            raise ValueError(f"are {len(folders)}, {info.data['metric']} takes {wanted}")
        return folders


class TrainJob(ModelJob):
    """Train a LoRA that makes a model's latent space smooth (or any LoRA, with --lambda 0)."""

    command: ClassVar[str] = "train"
    data: Annotated[str, Flag(positional=True)] = Field(
        min_length=1,
        description="Folder with metadata.jsonl, metadata.csv or a .txt beside each picture; stickers:train",
    )
    max_steps: Annotated[int, Flag("-n")] = Field(1000, ge=1, description="Optimizer steps")
    batch_size: Annotated[int, Flag("-b")] = Field(4, ge=1, le=4096, description="Pictures per process at once")
    accumulate: Annotated[int, Flag()] = Field(1, ge=1, le=4096, description="Batches added up per optimizer step")
    variation_weight: Annotated[float, Flag()] = Field(
        1.0,
        alias="lambda",
        ge=0,
        allow_inf_nan=False,
        description="Weight of the regulariser; 0 is plain LoRA training",
    )
    gradient: Annotated[Literal["central", "one-sided", "forward-variation", "double-backward"], Flag()] = Field(
        "central", description="How the regulariser is differentiated; double-backward is the paper's, slow and large"
    )
    relative_step: Annotated[float | None, Flag()] = Field(
        None, gt=0, le=1, description="Length of its finite difference; by default what the precision allows"
    )
    running_mean_start: Annotated[Literal["first-batch", "zero"], Flag()] = Field(
        "first-batch", description="Where the running mean of the variation begins; zero is the paper's program"
    )
    rank: Annotated[int, Flag("-r")] = Field(8, ge=1, le=1024, description="Rank of the LoRA; its alpha is the same")
    full: Annotated[bool, Flag()] = Field(False, description="Train the whole UNet instead of a LoRA")
    learning_rate: Annotated[float, Flag("-l")] = Field(
        1e-4, gt=0, le=1, allow_inf_nan=False, description="Learning rate of AdamW, constant after the warm-up"
    )
    weight_decay: Annotated[float, Flag()] = Field(
        1e-4, ge=0, le=1, allow_inf_nan=False, description="Weight decay of AdamW"
    )
    warmup_steps: Annotated[int, Flag()] = Field(0, ge=0, description="Steps of linear warm-up")
    max_grad_norm: Annotated[float, Flag()] = Field(1.0, gt=0, description="Longer gradients are cut to this length")
    prompt_dropout: Annotated[float, Flag()] = Field(
        0.0, ge=0, le=1, allow_inf_nan=False, description="Share of samples trained without their caption"
    )
    ema: Annotated[float, Flag()] = Field(
        0.0, ge=0, lt=1, allow_inf_nan=False, description="Decay of averaged weights, for example 0.999; 0 keeps none"
    )
    crop: Annotated[Literal["square", "buckets"], Flag()] = Field(
        "square", description="Crop pictures to squares, or to the nearest of several shapes of one area"
    )
    mixed_precision: Annotated[Literal["no", "fp16", "bf16"], Flag()] = Field(
        "no", description="Precision of the passes; bf16 is too coarse for the regulariser's differences"
    )
    gradient_checkpointing: Annotated[bool, Flag()] = Field(False, description="Less memory for more time")
    compile: Annotated[bool, Flag()] = Field(False, description="Compile the UNet first")
    checkpoint_every: Annotated[int, Flag(delivery=True)] = Field(500, ge=1, description="Steps between checkpoints")
    sample_every: Annotated[int, Flag(delivery=True)] = Field(
        0, ge=0, description="Steps between sheets of sample walks; 0 makes none"
    )
    resume: Annotated[bool, Flag(delivery=True)] = Field(
        False, description="Go on from the newest checkpoint in the output folder, or start"
    )

    @field_validator("full")
    @classmethod
    def _full_stands_alone(cls, full: bool, info: ValidationInfo) -> bool:
        if full and [text for text in info.data.get("lora", []) if text != "none"]:
            raise ValueError("trains the model's own weights, which cannot be saved with a LoRA on them")
        return full

    @field_validator("mixed_precision")
    @classmethod
    def _differences_need_precision(cls, mixed_precision: str, info: ValidationInfo) -> str:
        differs = info.data.get("gradient") != "double-backward" and info.data.get("variation_weight")
        if mixed_precision == "bf16" and differs:
            raise ValueError("is bf16, which is too coarse for finite differences; take fp16 or no")
        return mixed_precision


class TablesJob(ModelJob):
    """Measure the tables of the paper, and its baselines, on a model of your own, beside the paper's figures."""

    command: ClassVar[str] = "tables"
    data: Annotated[str, Flag(positional=True)] = Field(
        "stickers", min_length=1, description="Captioned pictures to measure against; stickers draws held-out scenes"
    )
    prompts: Annotated[str | None, Flag("-p")] = Field(
        None, description="Prompts of ISTD, one a line, or COCO's captions .json; stickers has its own list"
    )
    n: Annotated[int, Flag("-n")] = Field(500, ge=1, description="How many prompts ISTD walks under")
    pictures: Annotated[int, Flag()] = Field(
        500, ge=2, description="Pictures made per model, and real ones they are compared with"
    )
    inverted: Annotated[int, Flag()] = Field(20, ge=1, description="Pictures that are inverted and given back")
    pairs: Annotated[int, Flag()] = Field(4, ge=1, description="Pairs of pictures that are walked between")
    smooth: Annotated[str, Flag()] = Field(
        "default",
        min_length=1,
        description="Smooth LoRA as PATH[:SCALE]; default is the model's own, else the one trained here at lambda 1",
    )
    train_data: Annotated[str, Flag()] = Field("stickers:train", min_length=1, description="Data to train on, as train")
    train_steps: Annotated[int, Flag()] = Field(
        2000, ge=0, description="Steps of every training; 0 leaves what needs one empty"
    )
    train_batch_size: Annotated[int, Flag()] = Field(16, ge=1, le=4096, description="Pictures per training step")
    learning_rate: Annotated[float, Flag()] = Field(
        1e-4, gt=0, le=1, allow_inf_nan=False, description="Learning rate of every training"
    )
    clip: Annotated[str, Flag()] = Field(
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


JOBS: dict[str, type[Job]] = {
    "interpolate": InterpolateJob,
    "invert": InvertJob,
    "edit": EditJob,
    "drag": DragJob,
    "istd": IstdJob,
    "eval": EvalJob,
    "train": TrainJob,
    "tables": TablesJob,
}


@dataclass(frozen=True)
class Problem:
    """One wrong setting: its `key` as recipes spell it, and one clause that says what is wrong."""

    key: str
    what: str


def make_job(command: str, settings: Mapping[str, Any]) -> Job:
    """The job that these settings ask for.

    Raises: UsageError that names every wrong setting, one a line, as flags.
    """
    job, problems = try_job(JOBS[command], settings)
    if job is None:
        labels = {key_of(name, field): label_of(name, field) for name, field in fields_of(JOBS[command])}
        lines = [f"{labels.get(problem.key, problem.key)} {problem.what}" for problem in problems]
        raise UsageError("\n".join(lines), f"smoothtool {command} --help")
    return job


def try_job(model: type[Job], settings: Mapping[str, Any]) -> tuple[Job | None, list[Problem]]:
    """The job, or every problem at once."""
    try:
        return model.model_validate(dict(settings)), []
    except ValidationError as error:
        problems = [_problem(model, dict(detail)) for detail in error.errors(include_url=False)]
        return None, list(dict.fromkeys(problems))


def keys_of(model: type[Job]) -> list[str]:
    """Every key a recipe may use for this command."""
    return [key_of(name, field) for name, field in fields_of(model)]


def positional_of(model: type[Job]) -> str:
    """The key of the argument that is given without a name."""
    return next(key_of(name, field) for name, field in fields_of(model) if flag_of(field).positional)


def unknown_option(key: str, known: Iterable[str]) -> str:
    """`is not an option (did you mean prompt)`."""
    near = closest(key, known)
    return "is not an option" + (f" (did you mean {near})" if near else "")


def fields_of(model: type[Job]) -> list[tuple[str, FieldInfo]]:
    """Name and field in the order of the help: positional first, then panel by panel."""

    def rank(item: tuple[str, FieldInfo]) -> tuple[bool, int]:
        flag = flag_of(item[1])
        return not flag.positional, PANELS.index(flag.panel)

    return sorted(model.model_fields.items(), key=rank)


def parse_size(text: str) -> tuple[int, int | None]:
    """`512` is a longest side, `768x512` is width and height, in pixels; height is None for the first.

    Raises: ValueError.
    """
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    sides = [int(side) for side in match.groups() if side] if match else []
    if not sides or any(side not in SIDE_PX for side in sides):
        raise ValueError(
            f"is {text}, not a side (512) or WIDTHxHEIGHT (768x512) from {SIDE_PX.start} to {SIDE_PX.stop - 1} pixels"
        )
    return sides[0], sides[1] if len(sides) == 2 else None


def parse_lora(text: str) -> tuple[str, float]:
    """`PATH[:SCALE]`, where a path may itself hold colons; the scale is 1 when not given.

    Raises: ValueError when the scale is not finite or the path is empty.
    """
    path, colon, tail = text.rpartition(":")
    try:
        scale = float(tail) if colon else 1.0
    except ValueError:
        colon, scale = "", 1.0
    path = path if colon else text
    if not path or not math.isfinite(scale):
        raise ValueError(f"is {text}, not PATH or PATH:SCALE with a finite scale")
    return path, scale


def parse_fraction(text: str) -> float:
    """A number from 0 to 1.

    Raises: ValueError.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ValueError(f"is {text or 'empty'}, not a number from 0 to 1 or several such as 0.6,0.8")
    return value


def parse_weight(text: str) -> tuple[str, float]:
    """`fox=2` makes the word fox count twice.

    Raises: ValueError.
    """
    word, equals, factor = text.rpartition("=")
    try:
        value = float(factor) if equals else math.nan
    except ValueError:
        value = math.nan
    if not word.strip() or not math.isfinite(value):
        raise ValueError(f"is {text}, not WORD=FACTOR such as fox=2")
    return word.strip(), value


def parse_point(text: str) -> tuple[float, float, float, float]:
    """`20,32:40,32` is handle x, y and target x, y in pixels.

    Raises: ValueError.
    """
    pairs = [pair.split(",") for pair in text.split(":")]
    try:
        (handle_x, handle_y), (target_x, target_y) = [[float(number) for number in pair] for pair in pairs]
    except ValueError:
        raise ValueError(f"is {text}, not from X,Y to X,Y such as 20,32:40,32") from None
    if not all(map(math.isfinite, (handle_x, handle_y, target_x, target_y))):
        raise ValueError(f"is {text}, and not every number in it is finite")
    return handle_x, handle_y, target_x, target_y


def parse_shard(text: str | None) -> tuple[int, int]:
    """`2/4` is the second of four shares; None is the whole, (1, 1).

    Raises: ValueError.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text or "1/1")
    index, count = (int(part) for part in match.groups()) if match else (0, 0)
    if not 1 <= index <= count:
        raise ValueError(f"is {text}, not a share such as 2/4")
    return index, count


def _problem(model: type[Job], detail: dict[str, Any]) -> Problem:
    """Pydantic's finding in the user's terms."""
    key = str(detail["loc"][0])
    if detail["type"] == "extra_forbidden":
        return Problem(key, unknown_option(key, keys_of(model)))
    field = next(field for name, field in fields_of(model) if key in (name, field.alias))
    if detail["type"] == "missing":
        return Problem(key, "is missing")
    own_words = str(detail["ctx"]["error"]) if detail["type"] == "value_error" else ""
    if own_words:
        return Problem(key, own_words)
    return Problem(key, f"is {_shown(detail['input'])}, not {demand_of(field)}")


def _shown(value: Any) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = text if len(text) <= 60 else text[:59] + "…"
    return text or "empty"
