"""stdin, stdout and stderr that cannot break a run: letters they lack are escaped, and a reader that leaves is ignored.

On Windows every redirect has an old code page, a service may start with its streams closed, and `| head` goes early.
"""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, TextIO

STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
"""In the order of their descriptors 0, 1 and 2."""
ESCAPED = "smoothtool.escaped"
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""What can move the cursor, recolour, retitle or reorder what a terminal shows; tabs and line feeds cannot."""


@contextmanager
def steady_streams() -> Iterator[None]:
    """While it lasts, sys.stdin, sys.stdout and sys.stderr are open, and printing to them never raises for letters or
    for a reader that has left.

    A stream that was closed by the caller is opened to nowhere, so that no other file can get its descriptor.
    """
    codecs.register_error(ESCAPED, _escape)
    before = {name: getattr(sys, name) for name, _ in STREAMS}
    with ExitStack() as opened:
        for name, mode in STREAMS:
            stream = before[name]
            if stream is None or getattr(stream, "closed", False):
                stream = opened.enter_context(open(os.devnull, mode, encoding="utf-8"))
                os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, SteadyStream(stream, forgiving=name == "stderr") if mode == "w" else stream)
        try:
            yield
        finally:
            for name, mode in STREAMS:
                with suppress(OSError, ValueError):
                    if mode == "w":
                        getattr(sys, name).flush()
                setattr(sys, name, before[name])


class SteadyStream:
    """A text stream for output; what is not defined here is the stream's own.

    forgiving  every failure to write is ignored, as of messages that nobody could be told about; otherwise only that of
               a pipe without a reader
    """

    def __init__(self, stream: TextIO, *, forgiving: bool) -> None:
        self._stream, self._ignored = stream, (OSError if forgiving else BrokenPipeError)
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=ESCAPED)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except self._ignored:
            self._to_nowhere()
        except OSError:
            self._to_nowhere()  # or the same bytes fail again when the process ends
            raise
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except self._ignored:
            self._to_nowhere()
        except OSError:
            self._to_nowhere()
            raise

    def writelines(self, lines: Iterator[str]) -> None:
        for line in lines:
            self.write(line)

    def _to_nowhere(self) -> None:
        """What is left in the buffer, and all that follows, is dropped."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def visible(text: str) -> str:
    """The text with control characters spelled out: a file name with an escape sequence must not steer the terminal."""
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def speaks_utf8(stream: Any) -> bool:
    """Whether every letter can be written to a stream as it is."""
    return _codec(getattr(stream, "encoding", None) or "utf-8") == "utf-8"


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    """For codecs: a letter that an encoding lacks as `\\u03a9`; the bytes of a file name that is no text as they are.

    Bytes may pass only where names are read in the same encoding: in any other they would be other letters.
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letter = error.object[error.start]
    if "\udc80" <= letter <= "\udcff" and _codec(error.encoding) == _codec(sys.getfilesystemencoding()):
        return bytes([ord(letter) - 0xDC00]), error.start + 1
    return ascii(letter)[1:-1], error.start + 1


def _codec(name: str) -> str:
    try:
        return codecs.lookup(name).name
    except LookupError:
        return name
