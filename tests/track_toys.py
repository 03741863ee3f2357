"""A track that remembers."""

from __future__ import annotations

from smoothtool.types import Silent


class Told(Silent):
    """Keeps what is told and shown."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.statuses: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def status(self, text: str) -> None:
        self.statuses.append(text)
