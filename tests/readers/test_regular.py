"""Only regular files are read, and nothing waits for a pipe."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from smoothtool.errors import InputError, ModelError
from smoothtool.readers.regular import at_home, check_regular, is_regular, read_regular


def refusal(path: Path, limit_bytes: int = 100) -> str:
    with pytest.raises(InputError) as refused:
        read_regular(path, limit_bytes=limit_bytes)
    return refused.value.what


def test_a_regular_file_is_read_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert read_regular(tmp_path / "b", limit_bytes=3) == b"abc"


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "pipe").endswith("this is a pipe, not a regular file")
    assert not is_regular(tmp_path / "pipe")


def test_a_link_to_a_device_is_refused(tmp_path: Path) -> None:
    (tmp_path / "endless").symlink_to("/dev/zero")
    assert refusal(tmp_path / "endless").endswith("this is a device, not a regular file")


def test_a_socket_and_a_folder_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("s")
        assert "s: " in refusal(Path("s"))
    assert refusal(tmp_path).endswith("this is a folder, not a file")


def test_names_that_lead_nowhere_are_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "there is no such file" in refusal(tmp_path / "missing")
    assert "not the name of a file" in refusal(tmp_path / "a\0b")
    assert "cannot be read" in refusal(tmp_path / "loop")
    assert "cannot be read" in refusal(tmp_path / ("n" * 300))
    assert not is_regular(tmp_path / "a\0b")


def test_a_file_over_the_limit_is_refused_even_if_it_says_that_it_is_empty(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"x" * 101)
    assert "larger than" in refusal(tmp_path / "large")
    assert "larger than" in refusal(Path("/proc/self/maps"))


def test_the_caller_chooses_the_error_and_its_hint(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as refused:
        check_regular(tmp_path / "missing", fault=ModelError, hint="another model")
    assert refused.value.hint == "another model"


def test_no_descriptor_stays_open_after_a_refusal(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        refusal(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_home_is_expanded_and_unknown_users_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert at_home("~/x") == Path("/home/me/x")
    assert at_home("~nosuchuser/x") == Path("~nosuchuser/x")
