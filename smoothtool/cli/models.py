"""`smoothtool models`: what can be used, what is here, and how to get more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from smoothtool.cli import console
from smoothtool.cli.flags import Json
from smoothtool.errors import ModelError, UsageError, closest
from smoothtool.files.storage.checksums import check_noted, noted, notes_file, sha256_of
from smoothtool.readers.regular import at_home, is_regular
from smoothtool.readers.tensors import read_header
from smoothtool.weights.facts import about_parameters, lora_facts, model_facts
from smoothtool.weights.lora_names import dialect_of
from smoothtool.weights.loras import KNOWN_LORAS, KnownLora, find_lora
from smoothtool.weights.models import (
    KNOWN,
    TOKENIZER_FILES,
    TOKENIZER_ID,
    KnownModel,
    find_model,
    is_diffusers_folder,
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
Name = Annotated[str, typer.Argument(help="A name from the list, a hub id, a folder or a file", show_default=False)]


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """List the models and LoRAs that have a name, and which are on this machine."""
    models = [
        _row(model.name, find_model(model.name) is not None, _size(model), model.licence, model.about)
        for model in KNOWN.values()
    ]
    loras = [
        _row(lora.name, find_lora(lora.name) is not None, "LoRA", lora.licence, lora.about)
        for lora in KNOWN_LORAS.values()
    ]
    console.rows_or_document("models", models + loras, as_json)


@app.command()
def info(name: Name, as_json: Json = False) -> None:
    """Say what a model or LoRA is, from its small files and headers, and where it lies."""
    facts = _lora_facts(name) if _is_lora(name) else _model_facts(name)
    if as_json:
        console.document({"ok": True, **facts})
    else:
        console.table([(key, shown) for key, value in facts.items() for shown in _shown(key, value)])


@app.command()
def pull(name: Name, as_json: Json = False) -> None:
    """Download a model, or a LoRA with a name, from the Hugging Face hub; prints its place."""
    if name in KNOWN_LORAS:
        path: Path | None = _pull_lora(KNOWN_LORAS[name])
        use = f"use it with --lora {name}, on any {KNOWN_LORAS[name].architecture}"
    else:
        path, use = _pull_model(name), f"use it with --model {name}; always, with `model: {name}` in {settings_file()}"
    if name == TOKENIZER_ID:
        use = "the tokenizer of SD 1.x and 2.x: --model FILE.safetensors works now"
    console.notice(use)
    if as_json:
        console.document({"ok": True, "name": name, "folder": str(path)})
    else:
        console.data(str(path))


def _row(name: str, here: bool, size: str, licence: str, about: str) -> dict[str, str]:
    return {"name": name, "here": "yes" if here else "no", "size": size, "licence": licence, "what": about}


def _size(model: KnownModel) -> str:
    return f"{model.size_gb:.1f} GB" if model.size_gb else "embedded"


def _is_lora(name: str) -> bool:
    """A LoRA's name, or a file or folder with tensors that are named like a LoRA's."""
    if name in KNOWN_LORAS:
        return True
    path = at_home(name)
    if name in KNOWN or is_diffusers_folder(path) or not (path.is_dir() or path.suffix == ".safetensors"):
        return False
    return path.is_dir() or (is_regular(path) and bool(dialect_of(read_header(path))))


def _model_facts(name: str) -> dict[str, Any]:
    model = KNOWN.get(name)
    place = find_model(name) if model else resolve_model(name)
    facts: dict[str, Any] = {"name": place.name if place else name}
    facts |= model_facts(place) if place else {}
    if model:
        facts |= {"what": model.about, "architecture": model.architecture, "licence": model.licence}
    if model and model.hub_id:
        facts["source"] = f"https://huggingface.co/{model.hub_id}"
    where = place and (place.folder or place.single_file)
    facts["place"] = str(where) if where else f"not here; smoothtool models pull {name}"
    if place and place.default_lora:
        facts["lora"] = str(place.default_lora)
    return facts


def _lora_facts(name: str) -> dict[str, Any]:
    known, path = KNOWN_LORAS.get(name), find_lora(name)
    facts: dict[str, Any] = {"name": name}
    facts |= lora_facts(path) if path else {}
    if known:
        facts |= {"what": known.about, "architecture": known.architecture, "licence": known.licence}
        facts |= {"source": known.source, "sha256": check_noted(name, path) if path else noted().get(name, "not noted")}
    facts["place"] = str(path) if path else f"not here; smoothtool models pull {name}"
    return facts


def _shown(key: str, value: Any) -> list[str]:
    """A fact in the table, on as many lines as it needs."""
    if key == "parameters":
        return [about_parameters(value)]
    if key == "files":
        return [f"{path} ({size / 1e6:.1f} MB)" for path, size in value.items()]
    if isinstance(value, dict):
        return [", ".join(f"{part} {found}" for part, found in value.items())] if value else []
    return [str(value)]


def _pull_model(name: str) -> Path | None:
    place = find_model(name)
    if place is not None:
        return place.folder or place.single_file
    hub_id = _hub_id(name)
    offer = _ask_hub(name, hub_id)
    console.notice(f"{hub_id}: {offer.size_bytes / 1e9:.2g} GB, licence {offer.licence}")
    return _download(name, hub_id, offer.revision)


def _pull_lora(known: KnownLora) -> Path:
    """The file, whose checksum is that of the hub, and noted.

    Raises: ModelError when it cannot be had, or is another one.
    """
    path = find_lora(known.name) or _download_lora(known)
    console.notice(f"SHA-256 {check_noted(known.name, path)}, noted in {notes_file()}")
    return path


def _download_lora(known: KnownLora) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    try:
        info: Any = HfApi().repo_info(known.hub_id, repo_type=known.repo_type, files_metadata=True, timeout=TIMEOUT_S)
        path = Path(hf_hub_download(known.hub_id, known.file, repo_type=known.repo_type, revision=str(info.sha)))
    except Exception as error:
        raise _not_to_be_had(known.name, error) from error
    entry = next((file for file in info.siblings or [] if file.rfilename == known.file), None)
    announced = getattr(getattr(entry, "lfs", None), "sha256", None)
    if announced is not None and announced != sha256_of(path):
        raise ModelError(f"{known.name}: {path} is not the file that the hub announced", "delete it, and pull again")
    licence = (info.card_data or {}).get("license") or known.licence
    console.notice(f"{known.source}: {path.stat().st_size / 1e6:.1f} MB, licence {licence}")
    return path


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
            f"{name} is neither a known model nor a hub id",
            closest(name, [*KNOWN, *KNOWN_LORAS]) or "smoothtool models list",
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
