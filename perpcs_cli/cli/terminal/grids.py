"""A table in a window: whole where it fits, with folded columns of words, or as records below each other.

Numbers are never cut. Words are broken only where they are very long and the table would not fit else.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

GAP = 3
"""Columns between two of a table."""
LEAST = 8
"""A narrower column of words is not worth reading."""
LONG = 24
"""A longer word may be broken, as paths are."""


def grid(
    titles: Sequence[str],
    numeric: Sequence[bool],
    sections: Sequence[Sequence[Sequence[Text]]],
    *,
    window: int | None = None,
    styled: bool = False,
) -> list[str]:
    """The lines of a table with a title and a kind for each column, its rows in sections.

    window: how wide it may be; None for as wide as it needs. styled: with escape sequences for colours and the like.
    """
    widths = _widths(titles, numeric, sections, window)
    full = [place for place in range(len(titles)) if any(row[place].plain for section in sections for row in section)]
    if window is not None and (widths is None or sum(widths) + GAP * (len(widths) - 1) >= window) and full:
        # Where it is narrow, what is empty takes no place.
        titles, numeric = [titles[place] for place in full], [numeric[place] for place in full]
        sections = [[[row[place] for place in full] for row in section] for section in sections]
        widths = _widths(titles, numeric, sections, window)
    if widths is None:
        return _printed(_records(titles, sections), window, styled)
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title, right, room in zip(titles, numeric, widths, strict=True):
        table.add_column(
            _plain(title), justify="right" if right else "left", no_wrap=right, overflow="fold", width=room
        )
    for section in sections:
        for row in section:
            table.add_row(*row)
        table.add_section()
    return _printed([table], window, styled)


def _widths(
    titles: Sequence[str],
    numeric: Sequence[bool],
    sections: Sequence[Sequence[Sequence[Text]]],
    window: int | None,
) -> list[int] | None:
    """How wide each column is; None where they do not fit beside each other."""
    rows = [[_plain(title) for title in titles], *(row for section in sections for row in section)]
    whole = [max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)]
    longest = [max(map(_longest_word, column)) for column in zip(*rows, strict=True)]
    if window is None or sum(whole) + GAP * (len(whole) - 1) <= window:
        return whole
    for most in (window, LONG):
        least = [
            room if right else min(room, max(LEAST, min(word, most)))
            for room, word, right in zip(whole, longest, numeric, strict=True)
        ]
        left = window - sum(least) - GAP * (len(least) - 1)
        if left >= 0:
            break
    else:
        return None
    # What is left goes, column by column of the window, to the words that are furthest from their whole width.
    widths = list(least)
    for _ in range(left):
        widest = max(range(len(widths)), key=lambda place: whole[place] - widths[place])
        widths[widest] += 1
    return widths


def _longest_word(text: Text) -> int:
    return max((word.cell_len for word in text.split(" ")), default=0)


def _records(titles: Sequence[str], sections: Sequence[Sequence[Sequence[Text]]]) -> Iterator[RenderableType]:
    """A block for each row, a line for each cell that is not empty; a rule between sections."""
    from rich.rule import Rule
    from rich.table import Table

    for number, section in enumerate(sections):
        for place, row in enumerate(section):
            if place:
                yield ""
            elif number:
                yield Rule(style="none")
            record = Table.grid(padding=(0, 2, 0, 0))
            record.add_column(no_wrap=True)
            record.add_column(overflow="fold")
            for title, cell in zip(titles, row, strict=True):
                if cell.plain:
                    record.add_row(_plain(title), cell)
            yield record


def _plain(text: str) -> Text:
    from rich.text import Text

    return Text(text)


def _printed(parts: Sequence[RenderableType] | Iterator[RenderableType], window: int | None, styled: bool) -> list[str]:
    from rich.console import Console

    file = io.StringIO()
    console = Console(
        file=file,
        force_terminal=styled,
        color_system="standard" if styled else None,
        width=window or 100_000,
        highlight=False,
    )
    for part in parts:
        console.print(part)
    return [line.rstrip() for line in file.getvalue().splitlines()]
