"""What a user has set once, for all commands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from smoothtool.errors import ModelError, closest
from smoothtool.readers.regular import at_home
from smoothtool.yaml12 import load_yaml

SETTINGS = ("model", "device", "dtype", "output", "steps", "guidance")
RESULTS = Path("smoothtool-out")


def settings_file() -> Path:
    """Where a user may write `model: sd15`, `device: cuda`, `steps: 30`, …"""
    from platformdirs import user_config_path

    return user_config_path("smoothtool") / "settings.yaml"


def user_settings() -> dict[str, Any]:
    """What the settings file says, by key; nothing where there is none.

    Raises: ModelError when it is no mapping, has a key that means nothing, or a model or an output that is no text.
    """
    path = settings_file()
    settings = load_yaml(path).value if os.path.lexists(path) else None
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise ModelError(f"{path}: is not a mapping with model: NAME", "model: sd15")
    for key, example in (("model", "sd15"), ("output", "~/pictures")):
        if not isinstance(settings.get(key, example), str) or not settings.get(key, example):
            raise ModelError(f"{path}: {key} is not a text", f"{key}: {example}")
    unknown = next((str(key) for key in settings if key not in SETTINGS), None)
    if unknown is not None:
        near = closest(unknown, SETTINGS)
        raise ModelError(
            f"{path}: unknown key {unknown!r}", f"did you mean: {near}" if near else "one of " + ", ".join(SETTINGS)
        )
    return settings


def results_root() -> Path:
    """The folder in which results get folders of their own where none is named: the user's `output`, else RESULTS."""
    return at_home(str(user_settings().get("output", RESULTS)))
