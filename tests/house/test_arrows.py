"""The doors between the rooms (HOUSE: cli -> recipe -> jobs, cli -> commands -> methods -> diffusion -> types)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "smoothtool"
HEAVY = {"torch", "diffusers", "transformers", "peft", "accelerate", "torchvision", "torchmetrics", "cv2"}
CARRIED = {"types", "errors", "readers"}
DOORS = {
    "errors": set(),
    "threads": set(),
    "readers": {"errors"},
    "types": set(),
    "yaml12": {"errors", "readers"},
    "jobs": {"errors"},
    "recipe": {"errors", "readers", "jobs", "yaml12", "files", "weights"},
    "weights": {"errors", "readers", "yaml12"},
    "diffusion": {"weights", *CARRIED},
    "methods": {"diffusion", "types", "errors"},
    "files": {"yaml12", "weights", *CARRIED},
    "metrics": {"diffusion", *CARRIED},
    "training": {"diffusion", "methods", "files", "stickers", *CARRIED},
    "commands": {"methods", "diffusion", "training", "metrics", "files", "weights", "jobs", "recipe", *CARRIED},
    "batch": {"commands", "methods", "diffusion", "metrics", "files", "weights", "jobs", "recipe", *CARRIED},
    "cli": {
        "threads", "batch", "commands", "files", "weights", "recipe", "jobs", "yaml12", *CARRIED
    },
}  # fmt: skip
"""Which rooms a room may import. What is not listed (`__init__`, `__main__`, the making of weights) may see all."""
TORCH_FREE = {
    "errors", "threads", "readers", "types", "yaml12", "jobs",
    "recipe", "weights", "cli", "__init__", "__main__",
}  # fmt: skip


def room_of(module: str) -> str:
    """`smoothtool.files.storage.cache` -> files; `smoothtool.weights.models` -> weights; `smoothtool` -> __init__."""
    parts = module.split(".")[1:]
    return parts[0] if parts else "__init__"


def modules() -> dict[str, Path]:
    """Module name -> file."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)] = path
    return names


def imports_in(path: Path) -> Iterator[str]:
    """Every module named in an import, at any depth; `from smoothtool import cli` names smoothtool.cli."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "smoothtool":
            yield from (f"smoothtool.{alias.name}" for alias in node.names if not alias.name.startswith("__"))
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield str(node.module)


def imports_at_module_level(path: Path) -> Iterator[str]:
    """What importing the file imports: not what functions or `if TYPE_CHECKING:` import."""
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)


@pytest.mark.parametrize("room", DOORS)
def test_a_room_imports_only_through_its_doors(room: str) -> None:
    wrong = [
        f"{module} imports {name}"
        for module, path in modules().items()
        if room_of(module) == room
        for name in imports_in(path)
        if name.startswith("smoothtool.") and room_of(name) not in {room, "__init__", *DOORS[room]}
    ]
    assert not wrong


def test_the_torch_free_half_imports_nothing_heavy_at_module_level() -> None:
    wrong = [
        f"{module} imports {name}"
        for module, path in modules().items()
        if room_of(module) in TORCH_FREE
        for name in imports_at_module_level(path)
        if name.split(".")[0] in HEAVY
    ]
    assert not wrong


def test_only_cli_and_the_making_of_weights_print() -> None:
    wrong = [
        module
        for module, path in modules().items()
        if room_of(module) not in {"cli", "stickers"}
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert not wrong


def test_every_room_of_the_package_has_its_doors_written_down() -> None:
    assert {room_of(module) for module in modules()} - set(DOORS) <= {"__init__", "__main__", "stickers"}


def test_a_forbidden_arrow_is_seen(tmp_path: Path) -> None:
    """The test of the test: an import inside a function counts as an arrow, one under TYPE_CHECKING is not heavy."""
    file = tmp_path / "sample.py"
    file.write_text("if TYPE_CHECKING:\n    import torch\ndef f():\n    from smoothtool.files import cache\n")
    assert list(imports_in(file)) == ["torch", "smoothtool.files"]
    assert list(imports_at_module_level(file)) == []
