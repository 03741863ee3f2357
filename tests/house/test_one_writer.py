"""Every file is written by the one writer, files/storage/writing.py: whole or as it was, whatever happens meanwhile."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "smoothtool"
WRITER = PACKAGE / "files" / "storage" / "writing.py"
WRITES = {
    "save",
    "savez",
    "write_text",
    "write_bytes",
    "save_file",
    "imwrite",
    "copyfile",
    "copy",
    "copy2",
    "touch",
    "NamedTemporaryFile",
}
INTO_MEMORY = {"av", "zipfile", "tarfile"}
"""Libraries whose own `open` is given a buffer."""


def written_past_the_writer(source: str) -> Iterator[str]:
    """Calls that write a file themselves, but for those inside `with atomic_path(…)`, and into a `buffer`."""
    tree = ast.parse(source)
    safe = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.With) and any("atomic_path(" in ast.unparse(item) for item in node.items)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and id(node) not in safe and _writes(node):
            yield f"{node.lineno}: {ast.unparse(node)[:70]}"


def _writes(call: ast.Call) -> bool:
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name == "open":
        owner = getattr(getattr(call.func, "value", None), "id", "")
        return owner not in INTO_MEMORY and any(_is_writing_mode(part) for part in _parts(call))
    if name == "copy" and not call.args:  # of a list, a dict, a picture
        return False
    first = getattr(call.args[0], "id", "") if call.args else ""
    return name in WRITES and isinstance(call.func, ast.Attribute) and first != "buffer" and bool(call.args)


def _parts(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(keyword.value for keyword in call.keywords)]


def _is_writing_mode(part: ast.expr) -> bool:
    text = part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else ""
    return 0 < len(text) <= 3 and set(text) <= set("rwxabt+") and bool(set(text) & set("wxa+"))


def test_nothing_is_written_past_the_writer() -> None:
    wrong = [
        f"{path.relative_to(PACKAGE)}:{found}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != WRITER
        for found in written_past_the_writer(path.read_text("utf-8"))
    ]
    assert not wrong


@pytest.mark.parametrize(
    "line",
    [
        "picture.save(path)",
        "path.write_text(x)",
        "open(path, 'w')",
        "path.open('ab')",
        "open(path, mode='x')",
        "torch.save(state, path)",
        "shutil.copyfile(a, b)",
        "np.save(path, array)",
        "path.write_bytes(b'')",
    ],
)
def test_a_direct_write_is_seen(line: str) -> None:
    """The test of the test."""
    assert list(written_past_the_writer(line))


@pytest.mark.parametrize(
    "line",
    [
        "picture.save(buffer, 'PNG')",
        "open(path)",
        "path.open('rb')",
        "tarfile.open(path)",
        "words.copy()",
        "self.save()",
        "with atomic_path(path) as temporary:\n    torch.save(state, temporary)",
        "av.open(buffer, 'w')",
    ],
)
def test_reading_and_the_writer_are_let_through(line: str) -> None:
    assert not list(written_past_the_writer(line))
