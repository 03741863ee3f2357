"""The nodes. Pictures are ComfyUI's IMAGE, float [B, H, W, 3] in [0, 1]; masks its MASK, float [B, H, W], 1 inside."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from smoothtool.comfyui.inputs import optional_inputs, settings_of
from smoothtool.commands import run_job
from smoothtool.commands.shared.model_pool import ModelPool
from smoothtool.jobs import make_job
from smoothtool.recipe.defaults import with_defaults

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from smoothtool.types import Report

T = TypeVar("T")
IMAGE: tuple[str, dict[str, Any]] = ("IMAGE", {})
CATEGORY = "smoothtool"
_pool = ModelPool()
"""The loaded model, kept from one node to the next."""


class Node:
    """What the four have in common: inputs from the job model, one call, pictures out."""

    command: ClassVar[str]
    sockets: ClassVar[dict[str, Any]]
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("IMAGE",)
    FUNCTION, CATEGORY = "run", CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        return {"required": cls.sockets, "optional": cls.more_sockets() | optional_inputs(cls.command)}

    @classmethod
    def more_sockets(cls) -> dict[str, Any]:
        return {}

    def make(self, folder: Path, settings: dict[str, Any]) -> Report:
        """Run the command into a folder below `folder`."""
        job = with_defaults(make_job(self.command, {**settings, "output": folder / "result"}))
        return run_job(job, ComfyTrack(), _pool)


class Edit(Node):
    """Change every picture of a batch by words."""

    command = "edit"
    sockets: ClassVar[dict[str, Any]] = {"image": IMAGE}

    def run(self, image: torch.Tensor, **values: Any) -> tuple[torch.Tensor]:
        made: list[Image.Image] = []
        for picture in pictures_of(image):
            with tempfile.TemporaryDirectory() as name:
                settings = {**settings_of(self.command, values), "image": _saved(picture, Path(name) / "in.png")}
                made += _opened(self.make(Path(name), settings), "edited*.png")
        return (image_of(made),)


class Interpolate(Node):
    """Frames from the pictures of the first input to those of the second, ends included."""

    command = "interpolate"
    sockets: ClassVar[dict[str, Any]] = {"first": IMAGE, "second": IMAGE}

    def run(self, first: torch.Tensor, second: torch.Tensor, **values: Any) -> tuple[torch.Tensor]:
        pictures = [*pictures_of(first), *pictures_of(second)]
        with tempfile.TemporaryDirectory() as name:
            paths = [_saved(picture, Path(name) / f"{at}.png") for at, picture in enumerate(pictures)]
            report = self.make(Path(name), {**settings_of(self.command, values), "images": paths})
            return (image_of(_opened(report, "frames/*.png")),)


class Invert(Node):
    """How faithfully the model gives a picture back, and the file that edits start from."""

    command = "invert"
    sockets: ClassVar[dict[str, Any]] = {"image": IMAGE, "save_to": ("STRING", {"default": "inversion.safetensors"})}
    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("reconstruction", "file")

    def run(self, image: torch.Tensor, save_to: str, **values: Any) -> tuple[torch.Tensor, str]:
        with tempfile.TemporaryDirectory() as name:
            settings = {
                **settings_of(self.command, values),
                "image": _saved(pictures_of(image)[0], Path(name) / "in.png"),
            }
            report = self.make(Path(name), settings)
            target = Path(save_to).expanduser().absolute()
            _copy(report.folder / str(report.files["inversion"]), target)
            return image_of(_opened(report, "reconstruction.png")), str(target)


class Drag(Node):
    """Drag parts of a picture: a line X,Y:X,Y per point, in pixels from the picture's top left."""

    command = "drag"
    sockets: ClassVar[dict[str, Any]] = {"image": IMAGE}

    @classmethod
    def more_sockets(cls) -> dict[str, Any]:
        return {"mask": ("MASK", {})}

    def run(self, image: torch.Tensor, mask: torch.Tensor | None = None, **values: Any) -> tuple[torch.Tensor]:
        with tempfile.TemporaryDirectory() as name:
            settings = {
                **settings_of(self.command, values),
                "image": _saved(pictures_of(image)[0], Path(name) / "in.png"),
            }
            if mask is not None:
                painted = pictures_of(mask.reshape(-1, *mask.shape[-2:], 1)[:1].expand(-1, -1, -1, 3))[0]
                settings |= {"mask": _saved(painted, Path(name) / "mask.png"), "fit_mask": True}
            return (image_of(_opened(self.make(Path(name), settings), "dragged.png")),)


class ComfyTrack:
    """ComfyUI's progress bar and its Cancel, where we run inside ComfyUI; else silent."""

    def __call__(self, items: Iterable[T], description: str, total: int) -> Iterable[T]:
        try:
            from comfy.model_management import throw_exception_if_processing_interrupted
            from comfy.utils import ProgressBar
        except ImportError:
            yield from items
            return
        bar = ProgressBar(total)
        for item in items:
            throw_exception_if_processing_interrupted()
            yield item
            bar.update(1)

    def note(self, text: str) -> None:
        print(f"smoothtool: {text}")  # noqa: T201 - ComfyUI's log is its console

    def tell(self, text: str) -> None:
        self.note(text)

    def status(self, text: str) -> None:
        return None


def pictures_of(image: torch.Tensor) -> list[Image.Image]:
    """IMAGE [B, H, W, 3] in [0, 1] as PIL pictures, rounded to 8 bits."""
    from PIL import Image

    rows = (image.detach().cpu().clamp(0, 1) * 255).round().byte().numpy()
    return [Image.fromarray(row) for row in rows]


def image_of(pictures: list[Image.Image]) -> torch.Tensor:
    """PIL pictures of one size as IMAGE."""
    import numpy as np
    import torch

    return torch.stack([torch.from_numpy(np.array(picture.convert("RGB"))).float() / 255 for picture in pictures])


def _saved(picture: Image.Image, path: Path) -> str:
    from smoothtool.files.storage.writing import write_picture

    write_picture(path, picture)
    return str(path)


def _copy(source: Path, target: Path) -> None:
    from smoothtool.files.storage.writing import write_bytes_atomic

    write_bytes_atomic(target, source.read_bytes())


def _opened(report: Report, pattern: str) -> list[Image.Image]:
    from PIL import Image

    from smoothtool.weights.sample_pictures import natural

    opened: list[Image.Image] = []
    for path in sorted(report.folder.glob(pattern), key=lambda path: natural(path.name)):
        with Image.open(path) as picture:
            picture.load()
            opened.append(picture)
    return opened


NODE_CLASS_MAPPINGS = {
    "SmoothtoolEdit": Edit,
    "SmoothtoolInterpolate": Interpolate,
    "SmoothtoolInvert": Invert,
    "SmoothtoolDrag": Drag,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "SmoothtoolEdit": "Edit by words (smoothtool)",
    "SmoothtoolInterpolate": "Morph pictures (smoothtool)",
    "SmoothtoolInvert": "Invert a picture (smoothtool)",
    "SmoothtoolDrag": "Drag points (smoothtool)",
}
