"""Several texts with a title each, to compare: beside each other where the window is wide enough."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from perpcs_cli.cli.terminal import window

if TYPE_CHECKING:
    from rich.console import RenderableType

LEAST = 24
"""Columns that a text needs for itself."""
GAP = 3


def compared(texts: Mapping[str, str], columns: int) -> RenderableType:
    """Texts by their titles in a window of `columns`."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    titles = [Text(title, style="bold" if window.coloured() else "") for title in texts]
    bodies = [Text(text) for text in texts.values()]
    if len(texts) < 2 or columns < len(texts) * (LEAST + GAP) - GAP:
        inset = [Padding(body, (0, 0, 0, 2)) for body in bodies]
        return Group(*(part for pair in zip(titles, inset, strict=True) for part in pair))
    table = Table.grid(padding=(0, GAP, 0, 0), expand=True, pad_edge=False)
    for _ in texts:
        table.add_column(ratio=1, overflow="fold")
    table.add_row(*titles)
    table.add_row(*bodies)
    return table


def compared_text(texts: Mapping[str, str]) -> str:
    """The same as text: in the window, or a line for each where there is none."""
    columns = window.width()
    if columns is None:
        return "".join(f"{title}\t{' '.join(text.split())}\n" for title, text in texts.items())
    console = window.rich_console()
    with console.capture() as caught:
        console.print(compared(texts, columns))
    return "".join(f"{line.rstrip()}\n" for line in caught.get().splitlines())
