"""Which files of a diffusers model are its weights, recognised by their names: of a folder, or before a download."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from smoothtool.errors import ModelError
from smoothtool.weights.kinds import PART_NAMES

WITH_WEIGHTS = ("unet", "vae", "text_encoder", "text_encoder_2")
_SMALL = re.compile(
    r"model_index\.json|scheduler/[^/]+\.json|tokenizer(_2)?/[^/]+\.(json|txt)|(unet|vae|text_encoder(_2)?)/config\.json"
)
_WEIGHTS = re.compile(
    r"(?:diffusion_pytorch_model|model)(?:\.(\w+))?(?:-(?P<shard>\d+)-of-(?P<shards>\d+))?(?:\.(\w+))?\.safetensors"
    r"(?:(?:\.(\w+))?(?P<index>\.index)(?:\.(\w+))?\.json)?"
)


def variant_of(name: str) -> str | None:
    """Of a file of weights: "" for the plain ones, "fp16" and the like for a variant, None for any other file."""
    found = _WEIGHTS.fullmatch(name)
    return None if found is None else next((word for word in found.group(1, 4, 5, 7) if word), "")


def choose_variant(names: Iterable[str], asked: str | None = None) -> str | None:
    """Among the files of a part: the variant asked for, else plain weights, else fp16, else any; None without weights.

    Of a variant that is not whole, because files of it are missing, there is none.
    """
    names = list(names)
    found = {variant for variant in map(variant_of, names) if variant is not None and weights_of(names, variant)}
    return next((one for one in (asked, "", "fp16", *sorted(found)) if one in found), None)


def weights_of(names: Iterable[str], variant: str) -> list[str]:
    """The files of a variant's weights in one part: one file, or all of its pieces with their index; else none."""
    own = {name: found for name in names if variant_of(name) == variant and (found := _WEIGHTS.fullmatch(name))}
    single = [name for name, found in own.items() if not (found["shard"] or found["index"])]
    pieces = {found["shard"] for found in own.values() if found["shard"]}
    counts = {int(found["shards"]) for found in own.values() if found["shards"]}
    whole = any(found["index"] for found in own.values()) and counts == {len(pieces)}
    return single[:1] or (sorted(own) if whole else [])


def parts_of(files: Iterable[str]) -> set[str]:
    """The folders that a list of paths with forward slashes has files in."""
    return {path.partition("/")[0] for path in files if "/" in path}


def has_variant(files: Iterable[str], variant: str) -> bool:
    """Whether a part of the model has its weights in that variant."""
    return any(choose_variant(names, variant) == variant for names in _by_part(files).values())


def wanted_files(name: str, files: Collection[str], variant: str | None = None) -> list[str]:
    """The files that are needed of a repository, in one variant of the weights.

    variant  None for the plain weights, or what there is in their place; parts without it take theirs so too
    Raises: ModelError when a part has no weights that can be opened safely, or no part has that variant.
    """
    names = _by_part(files)
    for part, own in names.items():
        if choose_variant(own) is None:
            pickled = any(file.endswith((".bin", ".ckpt", ".pt")) for file in own)
            what = "its weights as a pickle alone, which can run code when it is opened" if pickled else "no weights"
            raise ModelError(f"{name}: the {PART_NAMES[part]} has {what}", "another copy of the model")
    if variant and not has_variant(files, variant):
        others = sorted({found for own in names.values() for file in own if (found := variant_of(file))})
        raise ModelError(f"{name}: there is no variant {variant}", ", ".join(others) or "the same without --variant")
    weights = [
        f"{part}/{file}" for part, own in names.items() for file in weights_of(own, choose_variant(own, variant) or "")
    ]
    return sorted([*(path for path in files if _SMALL.fullmatch(path)), *weights])


def is_complete(files: Collection[str], variant: str | None = None) -> bool:
    """Whether the parts of a downloaded model all have their weights, in that variant where one is named."""
    names = _by_part(files)
    whole = {"unet", "vae", "text_encoder"} <= names.keys() and all(
        choose_variant(own) is not None for own in names.values()
    )
    return whole and (variant is None or has_variant(files, variant))


def _by_part(files: Iterable[str]) -> dict[str, list[str]]:
    """The names of the files in the folder of each part that has weights."""
    found: dict[str, list[str]] = {}
    for path in files:
        part, _, name = path.partition("/")
        if part in WITH_WEIGHTS and "/" not in name:
            found.setdefault(part, []).append(name)
    return found
