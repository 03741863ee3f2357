"""`python -m smoothtool`, and the console script `smoothtool`."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress


def main() -> None:
    from smoothtool.cli.signals import at_once
    from smoothtool.errors import INTERRUPTED

    with at_once(_say_interrupted):
        from smoothtool.cli.app import main as command_line
        from smoothtool.cli.streams import steady_streams
    try:
        with steady_streams():
            command_line()
    except KeyboardInterrupt:  # before the command line listens
        _say_interrupted()
        sys.exit(INTERRUPTED)
    finally:
        with suppress(ValueError):
            signal.signal(
                signal.SIGINT, signal.SIG_IGN
            )  # nothing is left to be interrupted but Python's own clearing up


def _say_interrupted() -> None:
    with suppress(OSError):
        os.write(2, b"error: interrupted\n")


if __name__ == "__main__":
    main()
