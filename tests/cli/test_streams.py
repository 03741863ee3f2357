"""No letter, closed stream or reader that leaves can break a run, and nothing in a name steers the terminal."""

from __future__ import annotations

import encodings.aliases
import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from smoothtool.cli import console
from smoothtool.cli.launch import show_plan
from smoothtool.cli.streams import SteadyStream, steady_streams, visible
from smoothtool.recipe.plan import plan_flags
from smoothtool.recipe.reading import load_recipe

ROOT = Path(__file__).parents[2]
HARD = "Ω 日本 🦊 e\u0301 \udcff \ud800 \u2028 ü.png\n"
"""Letters that no old code page has, a byte that was no text, half a letter, and a line separator."""


def text_encodings() -> list[str]:
    """Every encoding of Python in which text can be written."""
    found = []
    for name in sorted({*encodings.aliases.aliases.values()}):
        try:
            "a".encode(name)
            io.TextIOWrapper(io.BytesIO(), encoding=name)
        except (LookupError, UnicodeError):
            continue
        found.append(name)
    return found


def test_every_encoding_writes_every_letter() -> None:
    names = text_encodings()
    assert len(names) > 80
    with steady_streams():
        for name in names:
            raw = io.BytesIO()
            stream = SteadyStream(io.TextIOWrapper(raw, encoding=name, newline="\n"), forgiving=False)
            stream.write(HARD)
            stream.flush()
            assert ".png" in raw.getvalue().decode(name, errors="replace"), name


def test_letters_that_an_encoding_lacks_are_spelled_out() -> None:
    raw = io.BytesIO()
    with steady_streams():
        stream = SteadyStream(io.TextIOWrapper(raw, encoding="cp1252", newline="\n"), forgiving=False)
        stream.write("Ω-ü\udcff")
        stream.flush()
    assert raw.getvalue() == "\\u03a9-ü\\udcff".encode("cp1252")


def test_a_name_that_is_no_text_keeps_its_bytes_where_names_are_read_in_the_same_encoding() -> None:
    raw = io.BytesIO()
    with steady_streams():
        stream = SteadyStream(io.TextIOWrapper(raw, encoding=sys.getfilesystemencoding()), forgiving=False)
        stream.write("a\udcff\ud800")
        stream.flush()
    assert raw.getvalue() == b"a\xff\\ud800"


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
def test_a_closed_stream_is_opened_to_nowhere_for_as_long_as_it_is_needed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for closed in (None, io.StringIO()):
        if closed is not None:
            closed.close()
        monkeypatch.setattr(sys, name, closed)
        with steady_streams():
            assert sys.stdin.read() == "" if name == "stdin" else getattr(sys, name).write("text") == 4


class Failing(io.RawIOBase):
    """A file that cannot be written."""

    def __init__(self, error: OSError) -> None:
        self.error = error

    def writable(self) -> bool:
        return True

    def write(self, content: object) -> int:
        raise self.error


@pytest.mark.parametrize(
    ("error", "forgiving"),
    [(BrokenPipeError(32, "Broken pipe"), False), (BrokenPipeError(32, ""), True), (OSError(28, "No space"), True)],
)
def test_a_stream_outlives_its_reader(error: OSError, forgiving: bool) -> None:
    stream = SteadyStream(io.TextIOWrapper(io.BufferedWriter(Failing(error))), forgiving=forgiving)
    for _ in range(3):
        stream.write("text\n" * 10_000)
        stream.flush()
    stream._stream.detach().raw.error = BlockingIOError()  # let the buffer go


def test_a_full_disk_behind_stdout_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    for redirect, said in ((">/dev/full", "stdout: No space left on device"), (">/dev/full 2>&1", "")):
        done = shell(f"recipe ls {redirect}")
        assert done.returncode not in (0, 120)
        assert "Traceback" not in done.stderr
        assert said in done.stderr
    done = shell("nosuch --json >/dev/full")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)


@pytest.mark.parametrize(
    ("line", "code", "out"),
    [
        ("--version >&-", 0, ""),
        ("--version 2>&-", 0, "smoothtool "),
        ("invert - <&-", 2, ""),
        ("invert - --nonsense <&- >&- 2>&-", 2, ""),
        ("invert nothing.png 2>&1 >&- | true; exit ${PIPESTATUS[0]}", 5, ""),
    ],
)
def test_closed_descriptors_change_no_exit_code(line: str, code: int, out: str) -> None:
    done = shell(line)
    assert (done.returncode, done.stdout[: len(out)], "Traceback" in done.stderr) == (code, out, False)


def test_notices_without_a_reader_do_not_end_a_run() -> None:
    """rich by itself leaves the program when the pipe of stderr is closed."""
    program = "import time; from smoothtool.cli import console, streams\nwith streams.steady_streams():\n"
    program += "    time.sleep(0.2)\n    [console.notice('x' * 5000) for _ in range(20)]\n    console.data('made')"
    done = subprocess.run(
        ["bash", "-c", '"$0" -c "$1" 2> >(true)', sys.executable, program],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "made\n")


def test_a_plan_is_read_back_from_a_stream_without_unicode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_flags("invert", {"image": ["samples:fox"], "src": "Ω 日本"})
    with (tmp_path / "plan.yaml").open("w", encoding="cp1252") as file:
        monkeypatch.setattr(sys, "stdout", file)
        show_plan(plan)
    assert load_recipe(tmp_path / "plan.yaml") == plan


def test_control_characters_are_spelled_out_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\x1b]0;title\x07\x9b31m\r\u202egnp.\n"
    console.notice(name)
    console.error(name, name)
    console.table([(name,)])
    shown = "".join(capsys.readouterr())
    assert not {"\x1b", "\x07", "\x9b", "\r", "\u202e"} & set(shown)
    assert "a\\x1b]0;title\\x07\\x9b31m\\r\\u202egnp." in shown
    assert visible("ordinary\ttext\nü 日") == "ordinary\ttext\nü 日"


def test_data_is_raw_for_programs_and_safe_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    console.data("a\x1b[31m")
    assert capsys.readouterr().out == "a\x1b[31m\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    console.data("a\x1b[31m")
    assert capsys.readouterr().out == "a\\x1b[31m\n"


def test_ctrl_c_while_the_command_line_is_loaded_is_no_traceback() -> None:
    program = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell starts us with it ignored
class Finder:
    def find_spec(self, name, *arguments):
        if name == "smoothtool.cli.app":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from smoothtool.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`smoothtool LINE` in bash."""
    return subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -m smoothtool {line}'],
        cwd=ROOT,
        text=True,
        timeout=60,
        capture_output=True,
        env={**os.environ, **environment},
    )
