"""The command line called in this process."""

from __future__ import annotations

import signal

import pytest

from smoothtool.cli.app import main
from smoothtool.cli.signals import ENDING


def call_main(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr); the handler of signals that `main` sets is taken off again."""
    before = {number: signal.getsignal(number) for number in ENDING}
    with pytest.raises(SystemExit) as left:
        main(arguments)
    for number, handler in before.items():
        signal.signal(number, handler)
    return int(left.value.code or 0), *capsys.readouterr()
