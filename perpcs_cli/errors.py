"""The errors that a user can cause. `cli.main` prints them without a traceback and exits with their code."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 3
"""Names that a message gives of many."""


def counted(count: int, what: str) -> str:
    """`1 problem`, `2 problems`."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def shortened(names: Sequence[str]) -> str:
    """`a, b, c and 4 more`."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


class PerpcsError(Exception):
    """Something a user can understand and mend: what is wrong, where, and what to do.

    `what` is a sentence without a final full stop, `where` a file, record or option, `hint` the remedy.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: object = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = None if where is None else str(where)
        self.hint = hint

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        return place + self.what + (f"\n  {self.hint}" if self.hint else "")


class UsageError(PerpcsError):
    """The command line or the settings ask for something that cannot be."""

    exit_code = 2


class DataError(PerpcsError):
    """An artifact or input file is missing, broken, or does not belong to the others."""

    exit_code = 3
