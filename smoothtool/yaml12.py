"""YAML 1.2 as plain data that knows where it stood, for recipes and settings.

PyYAML alone reads YAML 1.1: 1e-4 as text, no as false, 010 as 8. Tags, duplicate keys, alias bombs and deep nesting are
refused: what people write by hand needs none of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from smoothtool.errors import UsageError
from smoothtool.readers.regular import read_regular
from smoothtool.readers.text import decode_text

MAX_BYTES = 1_000_000
"""Of what people write; a plan that `--dry-run` made of thousands of pictures may be longer."""
MAX_PLAN_BYTES = 10_000_000
PLAN_KEYS = ("output:", "defaults:", "jobs:")
PIPES = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")
"""Where `<(command)` and `-` of other programs are found: these pipes have somebody who writes to them."""
MAX_DEPTH = 16
MAX_VALUES = 100_000
"""Values after aliases are followed: an alias bomb stops here."""

Trail = tuple[str | int, ...]
"""The way to a value from the top of the document: ("jobs", 0, "frames")."""


@dataclass(frozen=True)
class Document:
    """Plain data, and where in `source` each key and list item stands: (line, column), both from 1."""

    value: Any
    source: str
    marks: dict[Trail, tuple[int, int]] = field(default_factory=dict)

    def at(self, trail: Trail) -> str:
        """`file:line:col jobs[0].key`, as exactly as it is known."""
        known = next((self.marks[trail[:end]] for end in range(len(trail), -1, -1) if trail[:end] in self.marks), ())
        place = ":".join([self.source, *map(str, known)])
        words = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in trail).lstrip(".")
        return f"{place} {words}".rstrip()


def load_yaml(path: Path) -> Document:
    """The document in a file of at most 1 MB, or 10 for a plan; or from the shell, which hands over pipes below /dev.

    Raises: UsageError.
    """
    if not os.path.exists(path):
        raise UsageError(f"{path}: cannot be read: No such file or directory", "check the name")
    if str(path).startswith(PIPES):
        content = _from_pipe(path)
    else:
        content = read_regular(path, limit_bytes=MAX_PLAN_BYTES, fault=UsageError, hint="check the name")
    text = decode_text(content, str(path), UsageError)
    if len(content) > MAX_BYTES and not text.startswith(PLAN_KEYS):
        raise UsageError(f"{path}: is over {MAX_BYTES // 1000} kB, too long to be meant", "split it")
    return read_yaml(text, str(path))


def _from_pipe(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MAX_PLAN_BYTES)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}", "check the name") from error


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 scalars, without tags, and with an end to nesting."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 (filled below, PyYAML's own way)
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "tag", None):
            raise yaml.composer.ComposerError(None, None, f"the tag {event.tag} is not allowed", event.start_mark)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, "is nested too deeply", event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class Dumper(yaml.SafeDumper):
    """Quotes whatever either YAML version would not read as text."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012


_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]{1,100}|0o[0-7]{1,100}|0x[0-9a-fA-F]{1,100}", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)
for _name, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"^(?:{_pattern})$"), _first)
for _start in {*_Loader.yaml_implicit_resolvers, *yaml.SafeDumper.yaml_implicit_resolvers}:
    Dumper.yaml_implicit_resolvers[_start] = [
        *yaml.SafeDumper.yaml_implicit_resolvers.get(_start, []),
        *_Loader.yaml_implicit_resolvers.get(_start, []),
    ]


def dump_yaml(data: Any, *, every_letter: bool = True) -> str:
    """Block-style YAML in the order given, which YAML 1.1 and 1.2 read alike.

    every_letter  False for where UTF-8 cannot be written: other letters than ASCII's are then escaped
    """
    return str(yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=every_letter, width=110))


def read_yaml(text: str, source: str) -> Document:
    """One YAML document as plain data with positions.

    Raises: UsageError when it is not YAML, has duplicate keys, tags, or grows without end.
    """
    try:
        node = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{source}:{mark.line + 1}:{mark.column + 1}" if mark else source
        problem = error.problem or "is not YAML"
        what = f"{error.context}, {problem}" if problem.startswith("but ") else problem  # half a sentence
        raise UsageError(f"{place}: {what}", "check quotes and indents") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{source}: is not YAML: {' '.join(str(error).split())}", "save it as plain text") from error
    reader = _Reader(Document(None, source))
    value = None if node is None else reader.value(node, ())
    if reader.problems:
        raise UsageError("\n".join(reader.problems), "keep one of each")
    return Document(value, source, reader.document.marks)


@dataclass
class _Reader:
    """Turns YAML nodes into plain data, and notes positions and duplicate keys on the way."""

    document: Document
    problems: list[str] = field(default_factory=list)
    values: int = 0

    def value(self, node: yaml.Node, trail: Trail) -> Any:
        self.document.marks.setdefault(trail, (node.start_mark.line + 1, node.start_mark.column + 1))
        self.values += 1
        if self.values > MAX_VALUES or len(trail) > MAX_DEPTH:
            raise UsageError(f"{self.document.at(trail[:2])}: its aliases grow without end", "fewer aliases")
        if isinstance(node, yaml.MappingNode):
            return dict(self.pairs(node, trail))
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*trail, index)) for index, item in enumerate(node.value)]
        return _scalar(node.tag.rpartition(":")[2], node.value)

    def pairs(self, node: yaml.MappingNode, trail: Trail) -> Iterator[tuple[str, Any]]:
        seen: set[str] = set()
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
            self.document.marks[(*trail, key)] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if key in seen:
                self.problems.append(f"{self.document.at((*trail, key))}: is given twice")
            seen.add(key)
            yield key, self.value(value_node, (*trail, key))


def _scalar(kind: str, text: str) -> Any:
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    return float(re.sub(r"\.(inf|nan)$", r"\1", text.lower())) if kind == "float" else text
