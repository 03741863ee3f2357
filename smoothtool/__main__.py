"""`python -m smoothtool`, and the console script `smoothtool`."""

from __future__ import annotations

import sys


def main() -> None:
    from smoothtool.cli.streams import steady_streams
    from smoothtool.errors import INTERRUPTED

    with steady_streams():
        try:
            from smoothtool.cli.app import main as command_line

            command_line()
        except KeyboardInterrupt:  # while the command line itself was being loaded
            sys.stderr.write("error: interrupted\n")
            sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
