"""On a CPU an allocation beyond what is left fails, instead of the kernel ending the process."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from smoothtool.diffusion import memory
from smoothtool.diffusion.memory import available_bytes, failing_in_time
from smoothtool.errors import out_of_memory

CPU = torch.device("cpu")
LARGE_BYTES = 40_000_000
"""Above the largest threshold of glibc's malloc (32 MB): smaller blocks may come from heap that was freed before."""


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the machine have so many megabytes left."""

    def limit(megabytes: float) -> None:
        monkeypatch.setattr(memory, "available_bytes", lambda: int(megabytes * 1e6) + memory.SPARED_BYTES)

    return limit


@pytest.mark.parametrize(
    "use",
    [
        lambda: torch.ones(100_000_000),
        lambda: torch.nn.functional.conv2d(torch.ones(80, 8, 128, 128), torch.ones(64, 8, 3, 3), padding=1),
        lambda: np.ones(100_000_000),
        lambda: [bytes(LARGE_BYTES) for _ in range(5)],
    ],
)
def test_an_allocation_beyond_what_is_left_fails_as_out_of_memory(
    left: Callable[..., None], use: Callable[[], object]
) -> None:
    left(50)
    with pytest.raises((RuntimeError, MemoryError)) as caught, failing_in_time(CPU):
        use()
    assert out_of_memory(caught.value)
    assert torch.ones(1_000_000).sum() == 1_000_000


def test_what_fits_is_untouched_and_the_limit_goes_with_the_block(left: Callable[..., None]) -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    left(200)
    with failing_in_time(CPU):
        torch.ones(10_000_000)
        assert resource.getrlimit(resource.RLIMIT_DATA) != before
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_other_devices_and_other_systems_are_left_alone(
    left: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    left(0)
    with failing_in_time(torch.device("cuda")):
        torch.ones(10_000_000)
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    with failing_in_time(CPU):
        torch.ones(10_000_000)


def test_this_machine_says_what_it_has_left() -> None:
    assert 0 < (available_bytes() or 0) < 1 << 50


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_narrowest_control_group_counts_and_its_cache_is_free(tmp_path: Path) -> None:
    write(tmp_path / "memory.max", "max\n")
    write(tmp_path / "memory.current", "900\n")
    write(tmp_path / "a" / "memory.max", "1000\n")
    write(tmp_path / "a" / "memory.current", "700\n")
    write(tmp_path / "a" / "memory.stat", "anon 5\ninactive_file 50\nfile 60\n")
    write(tmp_path / "a" / "b" / "memory.max", "5000\n")
    write(tmp_path / "a" / "b" / "memory.current", "10\n")
    assert sorted(memory._left_in_groups(tmp_path, "0::/a/b\n")) == [350, 4990]


def test_groups_of_the_first_version_and_those_hidden_by_a_container_are_found(tmp_path: Path) -> None:
    write(tmp_path / "memory" / "memory.limit_in_bytes", "2000\n")
    write(tmp_path / "memory" / "memory.usage_in_bytes", "1500\n")
    assert list(memory._left_in_groups(tmp_path, "5:cpu:/x\n4:memory:/outside/of/here\n0::/\n")) == [500]
    write(tmp_path / "memory" / "memory.limit_in_bytes", "9223372036854771712\n")
    assert list(memory._left_in_groups(tmp_path, "4:memory:/\n")) == []
