"""What a step tells while it runs, to whoever listens: the console of a command, or nobody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Bar(Protocol):
    """How far something long has come."""

    def advance(self, steps: int = 1, text: str = "") -> None:
        """Go on by `steps`, with a word on what was done."""

    def loss(self, value: float) -> None:
        """Go on by one training step."""


class Report(Protocol):
    """Who listens."""

    def note(self, message: str) -> None:
        """Something that is good to know."""

    def warn(self, message: str) -> None:
        """Something that must not be missed."""

    def progress(self, label: str, total: int) -> AbstractContextManager[Bar]:
        """Something long of `total` steps begins."""


class _Nobody:
    def note(self, message: str) -> None:
        """Not heard."""

    def warn(self, message: str) -> None:
        """Not heard."""

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Bar]:
        """Not seen."""
        yield self

    def advance(self, steps: int = 1, text: str = "") -> None:
        """Not seen."""

    def loss(self, value: float) -> None:
        """Not seen."""


SILENT: Report = _Nobody()
"""Nobody listens."""
