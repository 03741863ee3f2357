"""What can be asked of `smoothtool drag`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from smoothtool.jobs.base import FormatJob
from smoothtool.jobs.notation import parse_point
from smoothtool.jobs.options import PATH, Flag


class DragJob(FormatJob):
    """Drag parts of a picture to other places: of a picture file, or of one made from a prompt."""

    command: ClassVar[str] = "drag"
    own_defaults: ClassVar[dict[str, dict[str, Any]]] = {"gooddrag": {"strength": 0.75}, "warp": {"strength": 0.2}}
    made: ClassVar[str] = "dragged.*"
    image: Annotated[str | None, Flag(positional=True, path=PATH)] = Field(
        None, description="A picture or samples:NAME; none to drag in a picture made from a prompt"
    )
    bench: Annotated[Path | None, Flag()] = Field(None, description="Has moved: smoothtool bench drag FOLDER")
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
        None,
        description="Picture that is light where what moves is, for warp by default the thing under the points, for "
        "fastdrag a disc around each; for dragdiffusion and gooddrag it is light where the picture may change",
    )
    fit_mask: Annotated[bool, Flag()] = Field(False, description="Resize a mask of another size")
    method: Annotated[Literal["dragdiffusion", "gooddrag", "fastdrag", "warp"], Flag()] = Field(
        "warp",
        description="warp moves the pixels themselves and paints what they uncover; dragdiffusion, gooddrag (better, "
        "slower) and fastdrag (rougher, done at once) move what the model sees, which may change its shape",
    )
    lora_steps: Annotated[int | None, Flag()] = Field(
        None,
        ge=0,
        le=10_000,
        description="Steps of teaching the model the picture first; by default 80, 70 for gooddrag, 0 (none) for "
        "fastdrag and warp",
    )
    strength: Annotated[float, Flag()] = Field(
        0.7,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="How far towards noise the picture is opened for dragging, or, by warp, what it uncovers for "
        "painting; the own defaults of gooddrag and warp are 0.75 and 0.2",
    )
    iterations: Annotated[int | None, Flag()] = Field(
        None, ge=1, le=10_000, description="Most drag iterations; 80 for dragdiffusion and 70 for gooddrag by default"
    )

    shared_blocks: Annotated[float, Flag()] = Field(
        0.375,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Part of the model's transformer blocks in which the dragged picture sees the original's keys and "
        "values: more keeps more detail, 0 is none; not for warp",
    )

    @field_validator("bench")
    @classmethod
    def _the_benchmark_has_moved(cls, bench: Path | None) -> Path | None:
        if bench is not None:
            raise ValueError(f"has moved: smoothtool bench drag {bench}, with --set KEY=VALUE for options of drag")
        return bench

    @field_validator("prompt")
    @classmethod
    def _one_source_of_pictures(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("image"):
            raise ValueError("is instead of a picture file, not beside it")
        if value is None and "bench" in info.data and not info.data.get("image", 1):
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
        sources = [name for name in ("pick", "point") if info.data.get(name, [])]
        if points is not None and sources:
            raise ValueError(f"is instead of {sources[0]}, not beside it")
        if points is None and not sources and {"bench", "point"} <= info.data.keys():
            raise ValueError("is missing, and so are point (X,Y:X,Y) and pick (to click them): give one of the three")
        return points

    @field_validator("iterations")
    @classmethod
    def _warp_moves_at_once(cls, iterations: int | None, info: ValidationInfo) -> int | None:
        if iterations is not None and info.data.get("method") == "warp":
            raise ValueError("is for --method dragdiffusion and gooddrag; warp moves everything at once")
        return iterations

    @field_validator("shared_blocks")
    @classmethod
    def _warp_samples_nothing_beside(cls, share: float, info: ValidationInfo) -> float:
        if share != cls.model_fields["shared_blocks"].default and info.data.get("method") == "warp":
            raise ValueError("is not for the method warp, which samples no picture beside another")
        return share


IDENTITY_STEPS = {"dragdiffusion": 80, "gooddrag": 70, "fastdrag": 0, "warp": 0}
"""Steps of learning the picture, as each method's program has it; FastDrag and warp learn nothing."""
DRAG_ITERATIONS = {"dragdiffusion": 80, "gooddrag": 70}
"""Most drag iterations, likewise; the other methods move everything at once."""


def identity_steps(method: str, lora_steps: int | None) -> int:
    """As asked for, else the method's own."""
    return IDENTITY_STEPS[method] if lora_steps is None else lora_steps


def drag_iterations(method: str, iterations: int | None) -> int:
    """As asked for, else the method's own; 0 for methods that have none."""
    return (iterations or DRAG_ITERATIONS[method]) if method in DRAG_ITERATIONS else 0


def opened_steps(method: str, strength: float, steps: int) -> int:
    """How many of the steps are undone and taken again; warp paints in one at least."""
    return max(round(strength * steps), 1 if method == "warp" else 0)
