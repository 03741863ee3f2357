"""`smoothtool doctor`: an environment report to paste into an issue."""

from __future__ import annotations

import importlib.util
import os
import platform

from smoothtool.cli import console
from smoothtool.cli.flags import Json
from smoothtool.cli.launch import silence_libraries
from smoothtool.files.storage.cache import cache_folder
from smoothtool.files.storage.reports import versions
from smoothtool.readers.regular import is_regular
from smoothtool.threads import waiting
from smoothtool.weights import settings
from smoothtool.weights.models import KNOWN, find_model

EXTRAS = {
    "metrics": ("torchmetrics", "torch_fidelity", "torchvision"),
    "video": ("av",),
    "ray": ("ray",),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "ui": ("starlette", "uvicorn"),
}


def doctor(as_json: Json = False) -> None:
    """Print versions, devices, extras, cache and models, to paste into an issue."""
    silence_libraries()
    extras = [name for name, modules in EXTRAS.items() if all(map(importlib.util.find_spec, modules))]
    models = [name for name in KNOWN if find_model(name)]
    rows = [*versions().items()]
    rows += [
        ("system", platform.platform()),
        ("processor", f"{os.cpu_count()} x {platform.processor() or platform.machine()}"),
        ("memory", _memory()),
        ("devices", _devices()),
        ("waiting threads", waiting()),
        ("extras", ", ".join(extras) or "none"),
        ("models", ", ".join(models) or "none"),
        ("settings", f"{settings.settings_file()}{'' if is_regular(settings.settings_file()) else ' (not written)'}"),
        ("cache", str(cache_folder("inversions").parent)),
    ]
    if as_json:
        console.document({"ok": True, **dict(rows)})
    else:
        console.table(rows)


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.1f} GB"
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return "unknown"


def _devices() -> str:
    """What torch can compute on; a broken torch is a finding, not a crash."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return f"torch cannot be imported: {error}"
    names = [f"cpu ({torch.get_num_threads()} threads)"]
    for index in range(torch.cuda.device_count()):
        memory_gb = torch.cuda.get_device_properties(index).total_memory / 1e9
        names.append(f"cuda:{index} ({torch.cuda.get_device_name(index)}, {memory_gb:.0f} GB)")
    return ", ".join([*names, *(["mps"] if torch.backends.mps.is_available() else [])])
