"""Allocations on a CPU that fail while there is still time to need less, as they do on a GPU.

Linux grants memory that it does not have, and kills the process that uses it. A limit on the process's own data makes
the allocation fail instead, so that a batch can be halved.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows, which refuses what it does not have
    resource = None  # type: ignore[assignment]

SPARED_BYTES = 256_000_000
"""For everything else on the machine, and for pages that are in no account."""
UNLIMITED = 1 << 60
"""Control groups without a limit say a number near 2^63."""


@contextmanager
def failing_in_time(device: torch.device) -> Iterator[None]:
    """On a CPU under Linux, allocations beyond what the machine has left raise meanwhile; elsewhere nothing changes.

    For work that can be divided: it may fail a little early, when others need less memory a moment later.
    """
    left, used = available_bytes(), _data_bytes()
    if device.type != "cpu" or resource is None or left is None or used is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = used + max(0, left - SPARED_BYTES)
    bounds = [limit, *(bound for bound in (soft, hard) if bound != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(bounds), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def available_bytes() -> int | None:
    """What this process may still use before the kernel ends it: of the machine with its swap, and of its container.

    None where the system does not say.
    """
    facts = dict(re.findall(r"(\w+):\s+(\d+) kB", _text(Path("/proc/meminfo"))))
    if "MemAvailable" not in facts:
        return None
    machine = 1024 * (int(facts["MemAvailable"]) + int(facts.get("SwapFree", 0)))
    return min([machine, *_left_in_groups(Path("/sys/fs/cgroup"), _text(Path("/proc/self/cgroup")))])


def _left_in_groups(root: Path, membership: str) -> Iterator[int]:
    """Of every control group with a limit that the process is in (version 2, or the memory controller of version 1).

    Inside a container its own group is the root. What files are cached in can be given back, so it counts as left.
    """
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            yield from _left(root, path, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            yield from _left(
                root / "memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
            )


def _left(root: Path, path: str, limit: str, usage: str, cache: str) -> Iterator[int]:
    group = root / path.lstrip("/")
    for folder in (group, *group.parents):
        allowed, used = _text(folder / limit).strip(), _text(folder / usage).strip()
        if allowed.isdecimal() and used.isdecimal() and int(allowed) < UNLIMITED:
            cached = re.search(rf"^{cache} (\d+)$", _text(folder / "memory.stat"), re.MULTILINE)
            yield max(0, int(allowed) - int(used) + (int(cached[1]) if cached else 0))
        if folder == root:
            return


def _data_bytes() -> int | None:
    """What the limit counts: this process's writable memory of its own, touched or not."""
    found = re.search(r"^VmData:\s+(\d+) kB$", _text(Path("/proc/self/status")), re.MULTILINE)
    return 1024 * int(found[1]) if found else None


def _text(path: Path) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return path.read_text()
    return ""
