"""What a GPU would find: a tensor that our code makes without saying on which device.

Such a tensor lands on the CPU, and fails beside the model's own on a GPU alone. So every method runs while a tensor
that is made without a device is refused. (With "meta" as the default one, what is only an index would pass.)
Tensors that diffusers, transformers and the other libraries make are their own affair.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from pathlib import Path
from types import FrameType
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from toys import tiny_clip, tiny_xl_model

import smoothtool
from smoothtool.commands import run_job
from smoothtool.commands.edit import methods as edit_methods
from smoothtool.commands.shared.model_pool import ModelPool, model_key
from smoothtool.commands.train import run as train
from smoothtool.diffusion.model import DiffusionModel
from smoothtool.jobs import INVERSION_NAMES, MORPH_NAMES, make_job
from smoothtool.jobs.drag import IDENTITY_STEPS
from smoothtool.jobs.edit import EditName
from smoothtool.methods.smoothness.step_variation import Gradient
from smoothtool.metrics.clip_score import load_clip
from smoothtool.types import silent

PACKAGE, TORCH = (str(Path(str(module.__file__)).parent) for module in (smoothtool, torch))
pytestmark = pytest.mark.skipif(
    torch.__version__.startswith("2.6."), reason="with torch 2.6, what libraries make counts as made by their callers"
)
POINT = ["8,12:20,12"]
NOISE_WALK = {"images": [], "src": [], "prompt": "a cat"}
CASES: list[tuple[str, dict[str, Any]]] = [
    *(("invert", {"inversion": name}) for name in INVERSION_NAMES),
    ("invert", {"inversion": "nti", "solver": "gauss-newton", "null_anchor": 1.0}),
    *(("invert", {"inversion": "spdinv", "fixed_point_solver": name}) for name in ("plain", "adamw")),
    *(("edit", {"method": name}) for name in get_args(EditName) if name != "disentangle"),
    ("edit", {"method": "disentangle", "steps": 1}),
    *(
        ("edit", {"method": "switch", "inversion": name, "inner_steps": 2})
        for name in ("nti", "edict", "belm", "proxnpi")
    ),
    ("edit", {"method": "p2p", "trg": "a red dog", "blend": ["dog"], "reweight": ["dog=2"]}),
    ("edit", {"method": "p2p", "trg": "a red cat with a cake"}),
    ("edit", {"method": "pix2pix-zero", "map_rows": "one"}),
    *(("interpolate", {"method": name}) for name in MORPH_NAMES if name not in ("anid", "diffmorpher", "freemorph")),
    ("interpolate", {"method": "freemorph", "steps": 8}),
    ("interpolate", {"method": "anid", "steps": 8}),
    ("interpolate", {"method": "diffmorpher", "lora_steps": 1}),
    *(("interpolate", {"method": name, **NOISE_WALK}) for name in ("slerp", "attention")),
    ("interpolate", {"method": "attention", "attention_span": "always", "adain": True, "reschedule": True}),
    ("interpolate", {"images": ["0", "1", "0"], "src": ["a red cat"], "grid": True, "frames": 1}),
    *(
        ("drag", {"method": name, "iterations": 2 if name not in ("warp", "fastdrag") else None})
        for name in IDENTITY_STEPS
    ),
    ("drag", {"method": "dragdiffusion", "iterations": 2, "mask": "mask"}),
    ("drag", {"method": "warp", "mask": "mask"}),
    ("drag", {"method": "fastdrag", "image": None, "src": "", "prompt": "a red cat"}),
    *(("train", {"gradient": name}) for name in get_args(Gradient)),
    ("train", {"lambda": 0.0, "ema": 0.9, "prompt_dropout": 0.5, "sample_every": 1}),
    ("istd", {}),
]


class DeviceIsSaid(TorchFunctionMode):
    """Refuses calls that make a tensor without a device, where smoothtool is the caller."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in _device_constructors() and kwargs.get("device") is None:
            as_it_is = func is torch.as_tensor and isinstance(args[0], torch.Tensor)
            caller = _caller(sys._getframe(1))
            if caller.f_code.co_filename.startswith(PACKAGE) and not as_it_is:
                raise AssertionError(f"{caller.f_code.co_filename}:{caller.f_lineno}: {func.__name__} without a device")
        return func(*args, **kwargs)


class NothingIsCopied(TorchFunctionMode):
    """Refuses, inside a UNet's call, what copies numbers of Python to the device: each copy waits for a whole GPU."""

    inside = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if self.inside:
            assert func not in (torch.tensor, torch.as_tensor), "a tensor is made of numbers inside a UNet call"
            if func is torch.Tensor.__getitem__:
                index = args[1] if isinstance(args[1], tuple) else (args[1],)
                assert not any(isinstance(part, list) for part in index), "an index is a list inside a UNet call"
        return func(*args, **(kwargs or {}))

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def inside(*args: Any, **kwargs: Any) -> Any:
            self.inside = True
            try:
                return call(*args, **kwargs)
            finally:
                self.inside = False

        return inside


def _caller(frame: FrameType) -> FrameType:
    """The one that called torch."""
    while frame.f_back is not None and (
        frame.f_code.co_filename.startswith(TORCH) or frame.f_code.co_filename == __file__
    ):
        frame = frame.f_back
    return frame


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two captioned pictures, a mask, a prompt and a CLIP."""
    place = tmp_path_factory.mktemp("devices")
    tiny_clip(place / "clip")
    (place / "data").mkdir()
    for index, caption in enumerate(("a red cat", "a dog")):
        levels = np.random.default_rng(index).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(levels).save(place / "data" / f"{index}.png")
        (place / "data" / f"{index}.txt").write_text(caption)
    mask = np.zeros((32, 32), dtype=np.uint8)
    mask[6:18, 4:16] = 255
    Image.fromarray(mask).save(place / "mask.png")
    (place / "prompts.txt").write_text("a cat\n")
    return place


@pytest.fixture
def settings(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """A command's settings, small: the two pictures by their numbers."""
    clip = load_clip(place / "clip")
    monkeypatch.setattr(edit_methods, "load_clip", lambda source: clip)
    monkeypatch.setenv("SMOOTHTOOL_CACHE", str(tmp_path / "cache"))
    usual: dict[str, dict[str, Any]] = {
        "invert": {"image": "0", "src": "a red cat", "inner_steps": 2},
        "edit": {"image": "0", "src": "a red cat", "trg": "a red dog", "clip": "stickers"},
        "interpolate": {"images": ["0", "1"], "frames": 1, "src": ["a red cat", "a dog"], "inner_steps": 2},
        "drag": {"image": "0", "src": "a red cat", "point": POINT, "lora_steps": 1},
        "train": {"data": str(place / "data"), "max_steps": 1, "batch_size": 2, "tracker": "none", "size": "32"},
        "istd": {"prompts": str(place / "prompts.txt"), "n": 1, "frames": 3},
    }
    both = {"model": "tiny", "device": "cpu", "dtype": "float32", "steps": 2, "seed": 1, "output": tmp_path / "out"}

    def make(command: str, **given: Any) -> dict[str, Any]:
        whole = {**both, **usual[command], **given}
        for key in ("image", "images", "mask"):
            folder = place if key == "mask" else place / "data"
            if isinstance(whole.get(key), list):
                whole[key] = [str(folder / f"{name}.png") for name in whole[key]]
            elif whole.get(key):
                whole[key] = str(folder / f"{whole[key]}.png")
        return whole

    return make


def run(
    command: str,
    settings: dict[str, Any],
    model: DiffusionModel,
    monkeypatch: pytest.MonkeyPatch,
    mode: TorchFunctionMode | None = None,
) -> None:
    job, pool = make_job(command, settings), ModelPool()
    pool.model, pool.key = model, model_key(job)
    monkeypatch.setattr(train, "open_session", lambda *_: model)
    with mode or DeviceIsSaid():
        report = run_job(job, silent, pool)
    assert report.folder.is_dir()


@pytest.mark.parametrize(("command", "given"), CASES, ids=str)
def test_every_method_says_where_its_tensors_are(
    command: str,
    given: dict[str, Any],
    settings: Callable[..., dict[str, Any]],
    model: DiffusionModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(command, settings(command, **given), model, monkeypatch)


@pytest.mark.parametrize(
    ("command", "given"),
    [
        ("invert", {}),
        ("edit", {"method": "p2p", "trg": "a red dog", "blend": ["dog"], "reweight": ["dog=2"]}),
        ("edit", {"method": "p2p", "trg": "a red cat with a cake"}),
        ("edit", {"method": "masactrl", "steps": 6}),
        ("interpolate", {"method": "attention"}),
        ("interpolate", {"method": "freemorph", "steps": 8}),
        ("drag", {"method": "dragdiffusion", "iterations": 1}),
    ],
    ids=str,
)
def test_a_unet_call_copies_no_numbers_to_the_device(
    command: str,
    given: dict[str, Any],
    settings: Callable[..., dict[str, Any]],
    model: DiffusionModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mode = NothingIsCopied()
    monkeypatch.setattr(model.unet, "forward", mode.around(model.unet.forward))
    run(command, settings(command, **given), model, monkeypatch, mode)


@pytest.mark.parametrize(
    ("command", "given"), [("invert", {}), ("edit", {"method": "p2p"}), ("train", {}), ("istd", {})], ids=str
)
def test_the_larger_model_does_too(
    command: str,
    given: dict[str, Any],
    settings: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run(command, settings(command, **given), tiny_xl_model(tmp_path / "words"), monkeypatch)


def test_a_tensor_without_a_device_is_refused_where_smoothtool_makes_it() -> None:
    code = compile("torch.zeros(2)", f"{PACKAGE}/methods/somewhere.py", "exec")
    with DeviceIsSaid():
        torch.zeros(2)
        with pytest.raises(AssertionError, match=r"somewhere\.py:1: zeros without a device"):
            exec(code, {"torch": torch})
