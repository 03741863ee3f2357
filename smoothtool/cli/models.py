"""`smoothtool models`: what can be used, what is here, and how to get more."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from smoothtool.cli import console
from smoothtool.cli.faults import Group
from smoothtool.cli.flags import Json
from smoothtool.errors import ModelError, UsageError, closest, first_line
from smoothtool.files.storage.checksums import check_noted, noted, notes_file, sha256_of
from smoothtool.readers.regular import at_home, is_regular
from smoothtool.readers.tensors import read_header
from smoothtool.weights import settings
from smoothtool.weights.facts import about_parameters, lora_facts, model_facts
from smoothtool.weights.kinds import SMALL_FILES, check_kind, describe, refuse_distilled, refuse_pipeline
from smoothtool.weights.lora_names import dialect_of
from smoothtool.weights.loras import KNOWN_LORAS, KnownLora, find_lora, resolve_lora
from smoothtool.weights.models import (
    KNOWN,
    TOKENIZER_FILES,
    TOKENIZER_ID,
    KnownModel,
    find_model,
    is_diffusers_folder,
    is_hub_id,
    is_revision,
    resolve_model,
)
from smoothtool.weights.published import has_variant, is_complete, parts_of, wanted_files

TIMEOUT_S = 10.0
HUB_ERRORS = {
    "RepositoryNotFoundError": ("the hub has no such model, or does not show it to everyone", "smoothtool models list"),
    "RevisionNotFoundError": ("it has no such revision", "--revision main"),
    "GatedRepoError": (
        "its licence has to be accepted first",
        "its page on huggingface.co, then HF_TOKEN in the environment",
    ),
}
"""By class, what the hub's client says in several lines, and what to try."""

app = typer.Typer(help="List, inspect and download models.", cls=Group)
Name = Annotated[str, typer.Argument(help="A name from the list, a hub id, a folder or a file", show_default=False)]
Revision = Annotated[
    str | None,
    typer.Option(help="Branch, tag or commit of its repository; used as --model NAME@REVISION", show_default=False),
]
Variant = Annotated[
    str | None, typer.Option(help="Of the weights: fp16 takes half the room of float32", show_default=False)
]


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
    _tell(_lora_facts(name) if _is_lora(name) else _model_facts(name), as_json)


def lora_info(name: str, as_json: bool) -> None:
    """The same of a LoRA alone. Raises: ModelError for what is not there, and for what is no LoRA."""
    if not _is_lora(name):
        if find_model(name) is None:
            resolve_lora(name)
        raise ModelError(f"{name}: is no LoRA", f"smoothtool models info {name}, for a model")
    _tell(_lora_facts(name), as_json)


def _tell(facts: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        console.document({"ok": True, **facts})
    else:
        console.table([(key, shown) for key, value in facts.items() for shown in _shown(key, value)])


@app.command()
def pull(name: Name, revision: Revision = None, variant: Variant = None, as_json: Json = False) -> None:
    """Download a model, or a LoRA with a name, from the Hugging Face hub; prints its place.

    A model that could not be used (a refiner, a turbo or in-painting model, SD 3, FLUX) is refused before.
    """
    if name in KNOWN_LORAS:
        if revision or variant:
            raise UsageError(f"{name}: a LoRA with a name is one file", "the same without --revision and --variant")
        path: Path | None = _pull_lora(KNOWN_LORAS[name])
        use = f"use it with --lora {name}, on any {KNOWN_LORAS[name].architecture}"
    else:
        if revision and not is_revision(revision):
            raise UsageError(f"--revision {revision}: is no branch, tag or commit", "main")
        path = _pull_model(name, revision, variant)
        used = f"{name}@{revision}" if revision else name
        use = f"use it with --model {used}; always, with `model: {used}` in {settings.settings_file()}"
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


def _pull_model(name: str, revision: str | None, variant: str | None) -> Path | None:
    place = find_model(f"{name}@{revision}" if revision else name)
    if place is not None and (place.folder is None or is_complete(_files_in(place.folder), variant)):
        return place.folder or place.single_file
    refuse_distilled(name)
    hub_id = _hub_id(name)
    offer = _ask_hub(name, hub_id, revision, variant)
    half = f"; {offer.fp16_bytes / 1e9:.2g} GB with --variant fp16" if offer.fp16_bytes else ""
    console.notice(f"{hub_id}: {offer.size_bytes / 1e9:.2g} GB, licence {offer.licence}{half}")
    return _download(name, hub_id, revision, offer.files)


def _files_in(folder: Path) -> list[str]:
    """The paths of a folder's files, from it, with forward slashes."""
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


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
        path = Path(hf_hub_download(known.hub_id, known.file, repo_type=known.repo_type))
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
    """What a download would bring. `fp16_bytes` is what half-precision weights would take instead, 0 without them."""

    files: list[str]
    size_bytes: int
    fp16_bytes: int
    licence: str


def _hub_id(name: str) -> str:
    if name in KNOWN and KNOWN[name].hub_id:
        return KNOWN[name].hub_id
    if not is_hub_id(name):
        raise UsageError(
            f"{name} is neither a known model nor a hub id",
            closest(name, [*KNOWN, *KNOWN_LORAS]) or "smoothtool models list",
        )
    return name


def _ask_hub(name: str, hub_id: str, revision: str | None, variant: str | None) -> Offer:
    """Raises: ModelError when the hub has no such model, or one that could not be used."""
    from huggingface_hub import HfApi

    try:
        found: Any = HfApi().model_info(hub_id, revision=revision, files_metadata=True, timeout=TIMEOUT_S)
    except Exception as error:  # the hub's client raises a dozen kinds; all mean: not to be had
        raise _not_to_be_had(name, error) from error
    sizes: dict[str, int] = {file.rfilename: file.size or 0 for file in found.siblings or []}
    half: list[str] = []
    if hub_id == TOKENIZER_ID:
        files = list(TOKENIZER_FILES)
    else:
        _check_before_download(name, hub_id, found, sizes)
        files = wanted_files(name, sizes, variant)
        half = wanted_files(name, sizes, "fp16") if variant is None and has_variant(sizes, "fp16") else []
    card: Any = found.card_data or {}
    licence = card.get("license") or (KNOWN[name].licence if name in KNOWN else "not stated")
    fp16_bytes = 0 if half == files else sum(sizes[file] for file in half)
    return Offer(files, sum(sizes.get(file, 0) for file in files), fp16_bytes, str(licence))


def _check_before_download(name: str, hub_id: str, found: Any, files: Collection[str]) -> None:
    """From what the hub says of the repository, its list of files, and its small files.

    Raises: ModelError for a model that could not be used.
    """
    refuse_pipeline(name, str((found.config or {}).get("diffusers", {}).get("_class_name", "")))
    if SMALL_FILES[0] not in files:
        single = next((file for file in files if "/" not in file and file.endswith(".safetensors")), None)
        hint = f"download {single} by hand, and give it as --model" if single else "smoothtool models list"
        raise ModelError(f"{name}: {hub_id} is no diffusers model (no {SMALL_FILES[0]})", hint)
    with TemporaryDirectory() as folder:
        for file in SMALL_FILES:
            if file in files:
                _fetch(name, hub_id, file, str(found.sha), folder)
        check_kind(name, describe(Path(folder), parts_of(files)))


def _fetch(name: str, hub_id: str, file: str, revision: str, folder: str) -> None:
    """One small file, outside the cache: a model whose index is there counts as downloaded."""
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(hub_id, file, revision=revision, local_dir=folder)
    except Exception as error:
        raise _not_to_be_had(name, error) from error


def _download(name: str, hub_id: str, revision: str | None, files: list[str]) -> Path:
    """By its branch, so that the cache knows which commit that is: without it, no name leads to the files."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]

    if console.show.quiet or not console.stderr.is_terminal:
        disable_progress_bars()
    try:
        return Path(snapshot_download(hub_id, revision=revision, allow_patterns=files))
    except Exception as error:
        raise _not_to_be_had(name, error) from error


def _not_to_be_had(name: str, error: Exception) -> ModelError:
    known = HUB_ERRORS.get(type(error).__name__)
    if known is not None:
        return ModelError(f"{name} cannot be downloaded: {known[0]}", known[1])
    what = f"{name} cannot be downloaded: {first_line(error)}"
    return ModelError(what, "the network, the name, or a folder copied by hand")
