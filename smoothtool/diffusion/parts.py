"""The parts of a model folder, each checked before and after a library reads it.

Given a damaged file, diffusers and transformers raise anything, or load random numbers in the place of what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from transformers import CLIPTokenizer

from smoothtool.diffusion.ddim import Schedule
from smoothtool.errors import ModelError, first_line, out_of_memory
from smoothtool.readers.fields import Fields, is_whole, read_fields, shown
from smoothtool.readers.regular import check_regular, is_regular, read_regular
from smoothtool.readers.tensors import REAL, read_header
from smoothtool.weights.published import choose_variant, weights_of

HINT = "another copy of the model"
LARGEST_TEXT_BYTES = 50_000_000
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".msgpack")
LARGEST = {
    "num_hidden_layers": 128, "layers_per_block": 16, "transformer_layers_per_block": 64, "num_attention_heads": 512,
    "attention_head_dim": 2048, "block_out_channels": 16_384, "hidden_size": 16_384, "intermediate_size": 65_536,
    "projection_dim": 16_384, "cross_attention_dim": 16_384, "vocab_size": 1_000_000, "max_position_embeddings": 8192,
    "in_channels": 64, "out_channels": 64, "latent_channels": 64, "norm_num_groups": 1024, "sample_size": 8192,
    "image_size": 8192, "patch_size": 1024,
}  # fmt: skip
"""Sizes in configs above which no model goes: a library would build layers until time or memory end."""
MAY_BE_ZERO = {"projection_dim"}
NUMBERS = {"scaling_factor": (1e-6, 1e6), "dropout": (0.0, 1.0), "attention_dropout": (0.0, 1.0)}
"""Lowest and highest of what is multiplied and drawn by, where a library only looks while it computes."""
MULTIPLIED = {"scaling_factor"}
"""Numbers that may be left out, and then have a default, but not be null."""
TOKENS = ("bos_token_id", "eos_token_id")
SHORTEST_TEXT = 3
"""Tokens: the two that enclose a prompt, and one of its own."""
COUNTED = "position_ids"
"""A list of whole numbers that older libraries saved with a text encoder's weights."""
MOST_LEVELS = 12
TEXT_MODEL = "text_model."


def read_part(kind: Any, folder: Path, part: str, name: str, dtype: torch.dtype) -> Any:
    """A diffusers or transformers model from `folder/part` (or `folder` itself, where `part` is empty), on the CPU.

    Where there are no plain weights, a variant of them is read: many models are published in fp16 alone.

    kind     its class
    name     the model's, which errors name
    Raises: ModelError when files are missing or damaged, weights are a pickle, a key is missing or of another shape.
    """
    place = folder / part
    config = read_fields(place / "config.json", limit_bytes=LARGEST_TEXT_BYTES, fault=ModelError, hint=HINT)
    _check_sizes(config)
    _check_files(place, name)
    precision = {"torch_dtype" if issubclass(kind, ModelMixin) else "dtype": dtype}

    def read(**options: Any) -> Any:
        return kind.from_pretrained(
            folder,
            subfolder=part,
            variant=choose_variant(path.name for path in place.iterdir()) or None,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            **precision,
            **options,
        )

    try:
        model, found = read()
        if has_bare_names(found["missing_keys"], found["unexpected_keys"]):
            model, found = read(key_mapping={"^": TEXT_MODEL})
    except Exception as error:
        if out_of_memory(error):
            raise
        reason = _other_shape(kind, config, place) or _reason(error)
        raise ModelError(f"{name}: {place} cannot be loaded: {reason}", HINT) from error
    check_missing(f"{name}: {place}", found["missing_keys"])
    _check_unused(f"{name}: {place}", model, found["unexpected_keys"])
    return model


def has_bare_names(missing: Iterable[str], unexpected: Iterable[str]) -> bool:
    """Whether all that is missing is there without TEXT_MODEL: a CLIPTextModel as transformers saves it since 5.6."""
    looked_for, there = set(missing), set(unexpected)
    return bool(looked_for) and looked_for == {f"{TEXT_MODEL}{key}" for key in there}


def check_missing(place: str, keys: Any) -> None:
    """Raises: ModelError when keys of a model found no weights, which a library fills with random numbers."""
    missing = sorted(keys)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"{place}: the weights lack {missing[0]}{more}", HINT)


def _check_unused(place: str, model: torch.nn.Module, keys: Iterable[str]) -> None:
    """Raises: ModelError for weights of the model's own blocks that its config leaves out: half a model would run."""
    blocks = {name for name, _ in model.named_children()}
    bare = {key.removeprefix(TEXT_MODEL) for key in keys if not key.endswith(COUNTED)}
    unused = sorted(key for key in bare if key.partition(".")[0] in blocks)
    if unused:
        more = f" and {len(unused) - 1} more" if len(unused) > 1 else ""
        raise ModelError(f"{place}: its config.json has no place for the weights {unused[0]}{more}", HINT)


def _reason(error: Exception) -> str:
    """What a library says, where it is said to people: the errors of other classes quote a key or an operator."""
    if isinstance(error, (OSError, RuntimeError, ValueError)):
        said = " ".join(str(error).split())
        return first_line(error) if not first_line(error).endswith(":") else said
    return "its config.json or the list of its pieces does not describe a model"


def read_tokenizer(folder: Path, part: str, name: str, **options: Any) -> CLIPTokenizer:
    """CLIP's tokenizer from `folder/part`.

    Raises: ModelError when its words are missing (a library would go on with none) or cannot be read.
    """
    place = folder / part
    words = all(is_regular(place / file) for file in ("vocab.json", "merges.txt"))
    if not words and not is_regular(place / "tokenizer.json"):
        raise ModelError(f"{name}: {place} has no tokenizer (vocab.json and merges.txt)", HINT)
    _check_texts(place)
    if words and not is_regular(place / "tokenizer.json") and not _has_merges(place / "merges.txt"):
        raise ModelError(f"{name}: {place / 'merges.txt'} holds no merges: every word would be letters", HINT)
    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder, subfolder=part, local_files_only=True, **options)
    except Exception as error:  # the tokenizers library raises plain Exceptions
        raise ModelError(f"{name}: {place} cannot be loaded: {first_line(error)}", HINT) from error
    length = tokenizer.model_max_length
    if not is_whole(length) or length < SHORTEST_TEXT:
        what = f"model_max_length is {shown(length)}, not a whole number from {SHORTEST_TEXT}"
        raise ModelError(f"{place / 'tokenizer_config.json'}: {what}", HINT)
    return tokenizer


def _has_merges(path: Path) -> bool:
    content = read_regular(path, limit_bytes=LARGEST_TEXT_BYTES, fault=ModelError, hint=HINT)
    return any(line.strip() and not line.startswith(b"#version") for line in content.splitlines())


def read_schedule(path: Path) -> Schedule:
    """The schedule in a scheduler_config.json. Raises: ModelError."""
    config = read_fields(path, limit_bytes=LARGEST_TEXT_BYTES, fault=ModelError, hint=HINT)
    return Schedule.from_config(config.values, str(path))


def check_channels(name: str, unet: Any, vae: Any) -> None:
    """Parts of different models can each be whole. Raises: ModelError when UNet and VAE do not fit together."""
    given, taken, made = vae.config.latent_channels, unet.config.in_channels, unet.config.out_channels
    if not given == taken == made:
        what = f"the VAE gives {given} channels, the UNet takes {taken} and gives {made}"
        raise ModelError(f"{name}: {what}", "an SD 1.x or 2.x model, for example sd15")


def check_words(name: str, text_config: Any, tokenizer: CLIPTokenizer) -> None:
    """The tokenizer learns how many words the text encoder takes, where its own config does not say.

    Raises: ModelError when it has words that the text encoder does not know.
    """
    known = int(text_config.vocab_size)
    if len(tokenizer) > known:
        what = f"the tokenizer has {len(tokenizer)} words, the text encoder knows {known}"
        raise ModelError(f"{name}: {what}", "the parts of one model")
    tokenizer.model_max_length = min(tokenizer.model_max_length, int(text_config.max_position_embeddings))


def _check_sizes(config: Fields) -> None:
    for key, largest in LARGEST.items():
        value = config.values.get(key)
        if value is None or isinstance(value, bool):
            continue
        numbers, least = list(_flat(value)), 0 if key in MAY_BE_ZERO else 1
        right = all(is_whole(one) and least <= one <= largest for one in numbers)
        if not right or not 1 <= len(numbers) <= MOST_LEVELS:
            raise config.wrong(key, f"a whole number up to {largest}, or a short list of them")
    for key, (low, high) in NUMBERS.items():
        if key in config.values:
            config.number(key, *([] if key in MULTIPLIED else [0.0]), low=low, high=high)
    for key in TOKENS:
        if key in config.values:
            config.whole(key, high=config.whole("vocab_size", LARGEST["vocab_size"]) - 1)
    for key in ("text_config", "vision_config"):
        if key in config:
            _check_sizes(config.fields(key))


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        for one in value:
            yield from _flat(one)
    else:
        yield value


def _check_files(place: Path, name: str) -> None:
    weights = sorted(place.glob("*.safetensors"))
    if not weights:
        pickles = [path.name for path in sorted(place.iterdir()) if path.suffix in PICKLES]
        if pickles:
            what = f"has its weights as a pickle alone ({pickles[0]}), which can run code when it is opened"
            raise ModelError(f"{name}: {place} {what}", "a copy with .safetensors files")
        raise ModelError(f"{name}: {place} has no weights (.safetensors)", HINT)
    for path in weights:
        read_header(path, fault=ModelError, hint=HINT)
    _check_texts(place)
    names = [path.name for path in place.iterdir()]
    for used in weights_of(names, choose_variant(names) or ""):
        _check_numbers(place / used)


def _check_numbers(path: Path) -> None:
    """One file of the weights that are read, or the list of them. A library turns whole numbers, as quantised weights
    are, into floats without their scales, which makes other pictures.

    Raises: ModelError.
    """
    if path.suffix == ".json":
        pieces = read_fields(path, limit_bytes=LARGEST_TEXT_BYTES, fault=ModelError, hint=HINT).fields("weight_map")
        for key in pieces.values:
            pieces.text(key)
        return
    for key, facts in read_header(path, fault=ModelError, hint=HINT).tensors.items():
        if facts.dtype not in REAL and not key.endswith(COUNTED):
            raise ModelError(f"{path}: {key} holds {facts.dtype}, not weights", "a copy that is not quantised")


def _check_texts(place: Path) -> None:
    for path in place.iterdir():
        if path.suffix in (".json", ".txt"):
            check_regular(path, limit_bytes=LARGEST_TEXT_BYTES, fault=ModelError, hint=HINT)


def _other_shape(kind: Any, config: Fields, place: Path) -> str:
    """The first tensor whose shape is not what the config asks for, or an empty string when that is not the reason."""
    try:
        with torch.device("meta"):
            settings = dict(config.values)
            model = kind.from_config(settings) if issubclass(kind, ModelMixin) else kind(kind.config_class(**settings))
        wanted = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        headers = [read_header(path).tensors for path in place.glob("*.safetensors")]
        stored = {key: facts.shape for header in headers for key, facts in header.items()}
    except Exception:  # whatever the library could not do with the config, the first error says it
        return ""
    for key, shape in wanted.items():
        found = stored.get(key, stored.get(f"{TEXT_MODEL}{key}"))
        if found is not None and found != shape:
            return f"{key} has the shape {list(found)}, and the config asks for {list(shape)}"
    return ""
