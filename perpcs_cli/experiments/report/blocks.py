"""What a page is made of: sections, and in them tables, figures and answers. Of HTML it knows nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

NOTHING = "–"
"""What stands where something is not known."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table: what is read first, and smaller beside it."""

    text: str
    detail: str = ""
    best: bool = False
    number: bool = False


@dataclass(frozen=True)
class Table:
    """Rows below a head. `folded`: behind a line that is clicked."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    folded: str = ""
    kind: Literal["table"] = "table"

    def without_empty(self) -> Table:
        """The table without the columns in which nothing stands."""
        kept = [n for n in range(len(self.columns)) if any(row[n].text not in ("", NOTHING) for row in self.rows)]
        rows = [[row[n] for n in kept] for row in self.rows]
        return replace(self, columns=[self.columns[n] for n in kept], rows=rows)


@dataclass(frozen=True)
class Figure:
    """An SVG, drawn by `charts`, with the colours' names below it."""

    svg: str
    title: str
    legend: Sequence[tuple[int, str]] = ()
    """(number of the colour, its name)."""


@dataclass(frozen=True)
class Figures:
    """Figures side by side, with one caption and, where they share it, one legend."""

    figures: Sequence[Figure]
    caption: str = ""
    legend: Sequence[tuple[int, str]] = ()
    title: str = ""
    kind: Literal["figures"] = "figures"


@dataclass(frozen=True)
class Answer:
    """What one system says; None where it says nothing."""

    system: int
    text: str | None
    right: bool
    """The same as the reference."""


@dataclass(frozen=True)
class Asked:
    """A query with its reference and the systems' answers."""

    user: int
    name: str
    id: str
    reference: str | None
    answers: Sequence[Answer]


@dataclass(frozen=True)
class Answers:
    """Queries, to be filtered by user and by system."""

    users: Sequence[str]
    systems: Sequence[str]
    asked: Sequence[Asked]
    kind: Literal["answers"] = "answers"


@dataclass(frozen=True)
class Fact:
    """A line of what was compared."""

    name: str
    value: str


@dataclass(frozen=True)
class Section:
    """A part of the page. Where there is nothing to show, `missing` says what would fill it."""

    id: str
    title: str
    lead: str = ""
    blocks: Sequence[Table | Figures | Answers] = ()
    missing: str = ""
    """In words; a command stands in back quotes."""


@dataclass(frozen=True)
class Page:
    """A report before it is HTML."""

    title: str
    subtitle: str
    facts: Sequence[Fact]
    sections: Sequence[Section]
    holds_texts: bool = field(default=False)
    """Whether users' texts are on it."""


def number(value: float, digits: int = 3) -> str:
    """A number for a table, with a real minus sign."""
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def signed(value: float, digits: int = 3) -> str:
    """The same with its sign in any case."""
    return f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def counted(count: int, one: str, many: str = "") -> str:
    """`1 user`, `2 users`."""
    return f"{count} {one if count == 1 else many or one + 's'}"
