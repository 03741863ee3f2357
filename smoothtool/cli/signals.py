"""What ends a run from outside: SIGTERM, a terminal that is closed, and Ctrl-C while libraries are being loaded."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))


def obey() -> None:
    """SIGTERM and SIGHUP leave as exceptions do, so that what is half-written goes; what `nohup` ignores stays so."""
    for number in _heard(ENDING):
        signal.signal(number, _leave)


@contextmanager
def at_once(tell: Callable[[], object]) -> Iterator[None]:
    """Signals end the process there and then: libraries that are being loaded may swallow an exception, or show one.

    tell  called first after Ctrl-C, to say so
    """

    def leave(number: int, frame: object) -> None:
        if number == signal.SIGINT:
            tell()
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(128 + number)

    before = {number: signal.signal(number, leave) for number in _heard((signal.SIGINT, *ENDING))}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, frame: object) -> None:
    sys.exit(128 + number)


def _heard(numbers: tuple[signal.Signals, ...]) -> list[signal.Signals]:
    """Those that this process does not ignore; none where another thread than the main one asks."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in numbers if signal.getsignal(number) not in (signal.SIG_IGN, None)]
