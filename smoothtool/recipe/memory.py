"""About how much memory jobs take at most, before any of it is used: weights, and what passes through them at once.

What torch and the drivers take for themselves comes on top. Where there is less, batches are divided and economies
turned on by themselves, so that a job may go on in a part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from smoothtool.errors import SmoothtoolError
from smoothtool.files.pictures.fitting import fitted_size_px
from smoothtool.files.pictures.picture_sizes import upright_size_px
from smoothtool.jobs import EDIT_INVERSIONS, INVERSION_NAMES, MORPH_NAMES, SHARED_INVERSION, Job, identity_steps
from smoothtool.jobs.notation import working_size
from smoothtool.recipe.estimate import ISTD_BATCH, LARGEST_BATCH, TABLES_BATCH, each_job, name_of_inversion
from smoothtool.weights.facts import Shape, model_shape
from smoothtool.weights.models import preferred_name
from smoothtool.weights.passes import (
    DRAWN_AT_ONCE,
    LEARNED_AT_ONCE,
    Held,
    decoder_pass,
    encoder_pass,
    latents_a_side,
    rows_at_once,
    unet_pass,
)
from smoothtool.weights.sample_pictures import resolve_picture

BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}
TOGETHER_ON_GPU = 4
"""Pictures of a batch that go together by default, see `batch.together`."""
IDENTITY_BATCH, IDENTITY_RANK = 4, 16
"""Crops in a step of learning one picture, and the rank of its LoRA."""
TRAINED_BYTES = 16
"""Of a number that AdamW trains: itself, its gradient and two moments, in float32."""
TWICE, UNFUSED = 2.3, 5.5
"""A graph that is itself differentiated, in graphs that are not, and the maps of tokens by tokens that it keeps, since
fused attention has no second derivative: measured on the embedded model.
"""
TRAINING_ENCODES = 16
"""Pictures through the VAE at once, before a training."""

Settings = Mapping[str, Any]
Rows = dict[str, float]
"""How many rows go at once, at most, through a pass of each kind: forward, backward, feature (backward from the last
decoder block but one, where drags look), maps (backward with the cross-attention maps kept), learning (backward into a
LoRA on crops of the training size), training (the same on whole pictures), encode, decode, and drawing (backward
through the VAE).
"""


def estimate_peak_bytes(jobs: Iterable[Job]) -> dict[str, float]:
    """By precision, the bytes of the job that takes most: the precision asked for, or float16 on a GPU and float32 on a
    CPU, where both were left open. Nothing of models that are not known, and of jobs without one.

    Raises: InputError when a benchmark's folder is not as it is published.
    """
    found: dict[str, float] = {}
    shapes: dict[str, Shape | None] = {}
    listed = list(each_job(jobs))
    for job in listed:
        settings = job.settings() | job.handover()
        name = settings.get("model")
        if name is None or job.command not in _ROWS:
            continue
        if name not in shapes:
            shapes[name] = _shape(str(name))
        shape = shapes[name]
        for dtype in _precisions(settings) if shape is not None else ():
            assert shape is not None
            taken = _Taken(shape, settings, dtype)
            asked = settings.get("batch_size") or (TOGETHER_ON_GPU if taken.on_gpu else 1)
            rows = _ROWS[job.command](settings, min(len(listed), asked))
            found[dtype] = max(found.get(dtype, 0.0), taken.peak_bytes(rows))
    return found


def _shape(name: str) -> Shape | None:
    """None for a model that is not known, or whose configs cannot be meant: the run itself says what is wrong."""
    try:
        shape = model_shape(preferred_name() if name == "auto" else name)
        if shape is not None:
            unet_pass(shape.unet, (8, 8))
            decoder_pass(shape.vae, (64, 64))
    except (SmoothtoolError, KeyError, TypeError, ValueError, IndexError):
        return None
    return shape


def _precisions(settings: Settings) -> tuple[str, ...]:
    if settings["dtype"] != "auto":
        return (str(settings["dtype"]),)
    if "max_steps" in settings or settings["device"] == "cpu":  # trainings are in float32 everywhere
        return ("float32",)
    return ("float16", "float32") if settings["device"] == "auto" else ("float16",)


@dataclass(frozen=True)
class _Taken:
    """What the settings take with a model of this shape in this precision."""

    shape: Shape
    settings: Settings
    dtype: str

    @property
    def on_gpu(self) -> bool:
        device = self.settings["device"]
        return bool(device != "cpu" and (device != "auto" or self.dtype != "float32"))

    @property
    def vae_bytes(self) -> int:
        return 4 if self.shape.vae.get("force_upcast") else BYTES[self.dtype]

    def peak_bytes(self, rows: Rows) -> float:
        """The pass that takes most, with the weights that are there meanwhile."""
        return max(
            self._weights(kind) + self._numbers(kind, min(count, self._most(kind))) for kind, count in rows.items()
        )

    def _most(self, kind: str) -> float:
        """Rows that are let through at once, however many wait."""
        if kind in ("encode", "decode"):
            return min(LARGEST_BATCH, rows_at_once(self._size_px(), DRAWN_AT_ONCE))
        if kind == "learning":
            return rows_at_once(self._latent_size(crop=True), LEARNED_AT_ONCE)
        return LARGEST_BATCH if kind == "forward" else float("inf")

    def _weights(self, kind: str) -> float:
        counts = self.shape.parameters
        sizes = {
            part: counts.get(part, 0) * BYTES[self.dtype] for part in ("UNet", "text encoder", "second text encoder")
        }
        sizes["VAE"] = counts.get("VAE", 0) * self.vae_bytes
        if not (self.settings.get("offload") and self.on_gpu):
            return float(sum(sizes.values()))
        return float(sizes["VAE" if kind in ("encode", "decode", "drawing") else "UNet"])

    def _numbers(self, kind: str, rows: float) -> float:
        """Bytes of a pass of so many rows."""
        if kind in ("encode", "decode", "drawing"):
            held = (encoder_pass if kind == "encode" else decoder_pass)(
                self.shape.vae, self._size_px(), bool(self.settings.get("vae_tiling"))
            )
            return rows * self.vae_bytes * (held.backward if kind == "drawing" else held.forward)
        held = unet_pass(self.shape.unet, self._latent_size(kind == "learning"), int(kind == "feature"))
        size = 2 if self.settings.get("mixed_precision", "no") != "no" else BYTES[self.dtype]
        if kind == "forward":
            return rows * size * held.forward
        if kind == "maps":
            return rows * (size * held.backward + (4 + 2 * size) * held.maps)
        saving = bool(self.settings.get("gradient_checkpointing"))
        passed = rows * size * (held.checkpointed if saving else held.backward)
        if kind in ("backward", "feature"):
            return passed
        # a LoRA in float32 on a model in half precision copies what it is given; else q, k and v share it
        copies = 4.0 if size == 2 else 4.0 / 3
        passed += rows * copies * (held.lora_inside if saving else held.lora)
        if self.settings.get("lambda") and self.settings.get("gradient") == "double-backward":
            passed = passed * TWICE + rows * size * UNFUSED * held.square_maps
        return passed + self._trained(held)

    def _trained(self, held: Held) -> float:
        """The weights that are trained, with their gradients and moments; a UNet's own are counted once already."""
        if self.settings.get("full"):
            return self.shape.parameters.get("UNet", 0) * (TRAINED_BYTES - 4.0)
        return held.projected * float(self.settings.get("rank", IDENTITY_RANK)) * TRAINED_BYTES

    def _latent_size(self, crop: bool) -> tuple[int, int]:
        height, width = (side // self._pixels_per_latent for side in self._size_px())
        if crop:
            native = self._native_px // self._pixels_per_latent
            height, width = min(height, native), min(width, native)
        return height, width

    @property
    def _pixels_per_latent(self) -> int:
        return int(2 ** (len(self.shape.vae["block_out_channels"]) - 1))

    @property
    def _native_px(self) -> int:
        return latents_a_side(self.shape.unet) * self._pixels_per_latent

    def _size_px(self) -> tuple[int, int]:
        """(height, width) of the largest picture that is worked on, padded."""
        native, multiple = (
            self._native_px,
            self._pixels_per_latent * 2 ** (len(self.shape.unet["block_out_channels"]) - 1),
        )
        size = working_size(self.settings.get("size"))
        own = [_own_size(name) or (native, native) for name in self._pictures()] or [(native, native)]
        width, height = max(
            (fitted_size_px(one, size, native) for one in own), key=lambda fitted: fitted[0] * fitted[1]
        )
        return -(-height // multiple) * multiple, -(-width // multiple) * multiple

    def _pictures(self) -> list[str]:
        one = self.settings.get("image")
        return [str(one)] if one else [str(name) for name in self.settings.get("images", ())]


def _own_size(name: str) -> tuple[int, int] | None:
    try:
        return upright_size_px(resolve_picture(name))
    except SmoothtoolError:  # an inversion file, or a name that is reported when it is opened
        return None


def _most(*parts: Rows) -> Rows:
    """What goes through at most in any of several stations."""
    found: Rows = {}
    for part in parts:
        for kind, count in part.items():
            found[kind] = max(found.get(kind, 0.0), count)
    return found


def _inversion(job: Settings, name: str, pictures: int) -> Rows:
    """Null-text inversion, and the steps of SPDInv and DCI where AdamW solves them, go backward through the UNet."""
    if name == "none":
        return {}
    fits = name == "nti" or (name in ("spdinv", "dci") and job["fixed_point_solver"] == "adamw")
    rows: Rows = {"encode": pictures, "decode": pictures, "forward": 2 * pictures}
    return _most(rows, {"backward": pictures}) if fits else rows


def _invert(job: Settings, together: int) -> Rows:
    if job["compare"]:
        return _most(*(_inversion(job, name, 1) for name in INVERSION_NAMES))
    return _most({"decode": 1, "encode": 1}, _inversion(job, job["inversion"], together))


def _edit(job: Settings, together: int) -> Rows:
    if job["compare"]:
        return _most(*(_one_edit({**job, "method": method, "inversion": "auto"}, 1) for method in EDIT_INVERSIONS))
    return _one_edit(job, together)


def _one_edit(job: Settings, together: int) -> Rows:
    """The inversions of a batch go together, and the edits by some methods."""
    done, name = str(job["image"]).lower().endswith(".safetensors"), name_of_inversion(job)
    inverted = {} if done else _inversion(job, name, together if name in INVERSION_NAMES else 1)
    several = together if job["method"] in EDITED_TOGETHER and not done else 1
    rows = {kind: count * several for kind, count in EDIT_ROWS.get(str(job["method"]), {"forward": 4}).items()}
    return _most({"encode": 1, "decode": 1}, inverted, rows)


EDITED_TOGETHER = ("switch", "sdedit")
EDIT_ROWS: dict[str, Rows] = {
    "switch": {"forward": 2},
    "sdedit": {"forward": 2},
    "pix2pix-zero": {"forward": 2, "maps": 2},
    "disentangle": {"forward": 2, "backward": 2, "drawing": 1},
}
"""By editing method; the others carry the source along, under guidance."""


def _interpolate(job: Settings, together: int) -> Rows:
    """All frames of a pair at once, and in the end the pictures of the whole walk."""
    if job["compare"]:
        return _most(*(_interpolate({**job, "compare": False, "method": name}, 1) for name in MORPH_NAMES))
    halves = 1 if job["guidance"] == 1 else 2
    pictures = max(2, len(job["images"]))
    if job["grid"]:
        side = job["frames"] + 2
        frames = shown = side * side if pictures == 4 else side * (side + 1) // 2
    else:
        frames, shown = job["frames"], (pictures - 1 + bool(job["loop"])) * (job["frames"] + 1) + 1
    rows: Rows = {"decode": shown, "forward": halves * max(frames, 2)}
    if job["method"] == "vae":
        rows = {"decode": shown}
    if not job["images"]:
        return rows
    if job["method"] in SHARED_INVERSION:
        done = all(str(name).lower().endswith(".safetensors") for name in job["images"])
        rows = _most(rows, _inversion(job, name_of_inversion(job), 0 if done else pictures))
    if job["method"] == "diffmorpher" and job["lora_steps"]:
        rows = _most(rows, {"learning": IDENTITY_BATCH})
    return _most(rows, {"encode": pictures})


def _drag(job: Settings, together: int) -> Rows:
    """A picture is opened without guidance; one made from a prompt is dragged under it. Without a mask the UNet stops
    behind the block whose features lead the points.
    """
    halves = 1 if job["image"] or job["guidance"] == 1 else 2
    rows: Rows = {"encode": 1, "decode": 1, "forward": 2 * halves}
    if job["method"] in ("dragdiffusion", "gooddrag"):
        masked = bool(job["mask"] or not job["point"])  # a file of points may hold one, and the page that picks them
        rows["backward" if masked else "feature"] = halves
    if job["image"] and identity_steps(job["method"], job["lora_steps"]):
        rows["learning"] = IDENTITY_BATCH
    return rows


def _istd(job: Settings, together: int) -> Rows:
    batch = min(job.get("batch_size", ISTD_BATCH), max(job["n"], 1) * job["frames"])
    return {"forward": (1 if job["guidance"] == 1 else 2) * batch, "decode": batch}


def _train(job: Settings, together: int) -> Rows:
    return {"encode": TRAINING_ENCODES, "training": job["batch_size"]}


def _tables(job: Settings, together: int) -> Rows:
    trained: Rows = {"training": job["train_batch_size"], "encode": TRAINING_ENCODES} if job["train_steps"] else {}
    return _most({"forward": 2 * TABLES_BATCH, "decode": TABLES_BATCH, "encode": 2, "backward": 2}, trained)


_ROWS: dict[str, Callable[[Settings, int], Rows]] = {
    "interpolate": _interpolate,
    "invert": _invert,
    "tables": _tables,
    "edit": _edit,
    "drag": _drag,
    "istd": _istd,
    "train": _train,
}
"""(settings, how many items of a batch go together at most) -> rows."""
