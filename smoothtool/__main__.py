"""`python -m smoothtool`, and the console script `smoothtool`."""

from __future__ import annotations


def main() -> None:
    from smoothtool.cli.app import main as command_line

    command_line()


if __name__ == "__main__":
    main()
