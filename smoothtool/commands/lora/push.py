"""`smoothtool lora push`: a LoRA with its card as a repository of the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from smoothtool.commands.lora.card import CardFacts, card, measured_smoothness
from smoothtool.commands.lora.places import lora_in
from smoothtool.errors import InputError, ModelError, UsageError, first_line
from smoothtool.files.storage.writing import write_bytes_atomic, write_text_atomic
from smoothtool.readers.regular import is_regular
from smoothtool.weights.facts import lora_facts
from smoothtool.weights.loras import resolve_lora
from smoothtool.weights.models import KNOWN, is_hub_id, split_revision

CARD, WALK = "README.md", "walk.png"


@dataclass(frozen=True)
class Push:
    """What is pushed: a LoRA (a file, or the folder of a training) to the repository `owner/name`.

    istd  the folder of `smoothtool istd --compare-lora`, whose figures stand on the card
    walk  a picture of a sample walk; by default the newest sheet of the training or of `istd`
    """

    lora: str
    repository: str
    base_model: str = ""
    licence: str = "other"
    istd: Path | None = None
    walk: Path | None = None
    private: bool = False


@contextmanager
def prepared(push: Push) -> Iterator[Path]:
    """A temporary folder with everything that the repository gets.

    Raises: UsageError, ModelError or InputError, before anything leaves this machine.
    """
    if not is_hub_id(push.repository):
        raise UsageError(f"{push.repository} is no name of a repository", "owner/name")
    source = resolve_lora(push.lora)
    file = lora_in(source)
    facts = lora_facts(file)
    twin = file.with_name(f"{file.stem}-kohya.safetensors")
    walk = _walk(push, source)
    smooth, definition = measured_smoothness(push.istd) if push.istd else ((), "")
    base = push.base_model or _hub_id(facts["training"].get("base_model", ""))
    text = card(
        CardFacts(
            title=push.repository.partition("/")[2],
            file=file.name,
            twin=twin.name if is_regular(twin) else "",
            base_model=base,
            licence=push.licence,
            lora=facts,
            smooth=smooth,
            definition=definition,
            walk=WALK if walk else "",
        )
    )
    with TemporaryDirectory(prefix="smoothtool-push-") as name:
        folder = Path(name)
        write_text_atomic(folder / CARD, text)
        for path in (file, twin):
            if is_regular(path):
                write_bytes_atomic(folder / path.name, path.read_bytes())
        if walk:
            write_bytes_atomic(folder / WALK, walk.read_bytes())
        yield folder


def upload(push: Push, folder: Path) -> str:
    """The address of the repository, which is made where it is not there yet.

    The token is the one of `hf auth login` or HF_TOKEN, which the hub's own client reads; it is never shown.
    Raises: ModelError when the hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(push.repository, private=push.private, exist_ok=True)
        done: Any = api.upload_folder(
            repo_id=push.repository, folder_path=str(folder), commit_message="Upload a LoRA made by smoothtool"
        )
    except Exception as error:  # the hub's client raises a dozen kinds; all mean: not done
        what = f"{push.repository}: nothing was pushed: {_without_token(first_line(error))}"
        raise ModelError(what, "hf auth login, the network, or the name") from error
    return str(getattr(done, "repo_url", None) or f"https://huggingface.co/{push.repository}")


def keep(folder: Path, target: Path) -> list[Path]:
    """The prepared files, kept in an empty or new folder of this machine. Raises: UsageError."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target}: is there already, and not empty", "another folder with -o")
    target.mkdir(parents=True, exist_ok=True)
    kept = []
    for path in sorted(folder.iterdir()):
        write_bytes_atomic(target / path.name, path.read_bytes())
        kept.append(target / path.name)
    return kept


def _walk(push: Push, source: Path) -> Path | None:
    """The picture asked for, else the newest sheet of walks of the training, else one of `istd` with the LoRA."""
    if push.walk is not None:
        if not is_regular(push.walk) or push.walk.suffix.lower() != ".png":
            raise InputError(f"{push.walk}: is no PNG picture of a walk", "a sheet that smoothtool made")
        return push.walk
    training = source if source.is_dir() else source.parent
    sheets = sorted((training / "samples").glob("step-*.png"))
    if not sheets and push.istd:
        sheets = sorted(push.istd.glob("sheet-compared*.png"))
    return sheets[-1] if sheets else None


def _hub_id(name: str) -> str:
    """What the hub calls a model that was named to `train`; nothing for files and folders of that machine."""
    plain, _ = split_revision(name)
    if plain in KNOWN:
        return KNOWN[plain].hub_id
    return plain if is_hub_id(plain) else ""


def _without_token(text: str) -> str:
    return re.sub(r"hf_[A-Za-z0-9]+", "hf_…", text)
