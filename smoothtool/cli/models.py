"""`smoothtool models`: what can be used, what is here, and how to get more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from smoothtool.cli import console
from smoothtool.cli.flags import Json
from smoothtool.errors import ModelError, UsageError, closest
from smoothtool.weights.models import (
    KNOWN,
    TOKENIZER_FILES,
    TOKENIZER_ID,
    find_model,
    is_hub_id,
    resolve_model,
    settings_file,
)

NEEDED = [
    "model_index.json",
    "scheduler/*.json",
    "tokenizer/*.json",
    "tokenizer/*.txt",
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "unet/diffusion_pytorch_model*.safetensors*",
    "vae/diffusion_pytorch_model*.safetensors*",
    "text_encoder/model*.safetensors*",
]
NOT_NEEDED = ["*.fp16*", "*non_ema*"]
TIMEOUT_S = 10.0

app = typer.Typer(help="List, inspect and download models.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="A name from the list, or a hub id", show_default=False)]


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """List known models, and which are on this machine."""
    rows = [
        {
            "name": model.name,
            "here": "yes" if find_model(model.name) else "no",
            "size": f"{model.size_gb:.1f} GB" if model.size_gb else "embedded",
            "licence": model.licence,
            "what": model.about,
        }
        for model in KNOWN.values()
    ]
    console.rows_or_document("models", rows, as_json)


@app.command()
def info(name: Name, as_json: Json = False) -> None:
    """Say what a model is and where it lies."""
    model = KNOWN.get(name)
    place = find_model(name) if model else resolve_model(name)
    rows = [("name", place.name if place else name)]
    if model:
        rows += [("what", model.about), ("architecture", model.architecture), ("licence", model.licence)]
    if model and model.hub_id:
        rows += [("source", f"https://huggingface.co/{model.hub_id}")]
    where = place and (place.folder or place.single_file)
    rows += [("place", str(where) if where else f"not here; smoothtool models pull {name}")]
    if place and place.default_lora:
        rows += [("LoRA", str(place.default_lora))]
    if as_json:
        console.document({"ok": True, **{key.lower(): value for key, value in rows}})
    else:
        console.table(rows)


@app.command()
def pull(name: Name, as_json: Json = False) -> None:
    """Download a model from the Hugging Face hub; prints its folder."""
    place = find_model(name)
    if place is None:
        hub_id = _hub_id(name)
        offer = _ask_hub(name, hub_id)
        console.notice(f"{hub_id}: {offer.size_bytes / 1e9:.2g} GB, licence {offer.licence}")
        folder: Path | None = _download(name, hub_id, offer.revision)
    else:
        folder = place.folder or place.single_file
    if name == TOKENIZER_ID:
        console.notice("the tokenizer of SD 1.x and 2.x: --model FILE.safetensors works now")
    else:
        console.notice(f"use it with --model {name}; always, with `model: {name}` in {settings_file()}")
    if as_json:
        console.document({"ok": True, "name": name, "folder": str(folder)})
    else:
        console.data(str(folder))


@dataclass(frozen=True)
class Offer:
    """What a download would bring."""

    size_bytes: int
    licence: str
    revision: str


def _hub_id(name: str) -> str:
    if name in KNOWN and KNOWN[name].hub_id:
        return KNOWN[name].hub_id
    if not is_hub_id(name):
        raise UsageError(
            f"{name} is neither a known model nor a hub id", closest(name, KNOWN) or "smoothtool models list"
        )
    return name


def _needed(hub_id: str) -> list[str]:
    """Patterns of the files worth downloading: of OpenAI's CLIP, the tokenizer alone."""
    return list(TOKENIZER_FILES) if hub_id == TOKENIZER_ID else NEEDED


def _ask_hub(name: str, hub_id: str) -> Offer:
    from huggingface_hub import HfApi
    from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

    try:
        found = HfApi().model_info(hub_id, files_metadata=True, timeout=TIMEOUT_S)
    except Exception as error:  # the hub's client raises a dozen kinds; all mean: not to be had
        raise _not_to_be_had(name, error) from error
    files: list[Any] = list(
        filter_repo_objects(
            found.siblings or [],
            key=lambda file: file.rfilename,
            allow_patterns=_needed(hub_id),
            ignore_patterns=NOT_NEEDED,
        )
    )
    has_unet = any(file.rfilename.startswith("unet/") and file.rfilename.endswith(".safetensors") for file in files)
    if not has_unet and hub_id != TOKENIZER_ID:
        raise ModelError(f"{name}: {hub_id} has no UNet as safetensors", "another model; smoothtool models list")
    card: Any = found.card_data or {}
    licence = card.get("license") or (KNOWN[name].licence if name in KNOWN else "not stated")
    return Offer(sum(file.size or 0 for file in files), str(licence), str(found.sha))


def _download(name: str, hub_id: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    if console.show.quiet or not console.stderr.is_terminal:
        disable_progress_bars()
    try:
        return Path(
            snapshot_download(hub_id, revision=revision, allow_patterns=_needed(hub_id), ignore_patterns=NOT_NEEDED)
        )
    except Exception as error:
        raise _not_to_be_had(name, error) from error


def _not_to_be_had(name: str, error: Exception) -> ModelError:
    first_line = str(error).strip().partition("\n")[0] or type(error).__name__
    return ModelError(f"{name} cannot be downloaded: {first_line}", "the network, the name, or a folder copied by hand")
