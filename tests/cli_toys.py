"""The command line called in this process."""

from __future__ import annotations

import signal

import pytest

from smoothtool.cli.app import main


def call_main(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr); the handler of signals that `main` sets is taken off again."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as left:
        main(arguments)
    signal.signal(signal.SIGTERM, before)
    return int(left.value.code or 0), *capsys.readouterr()
