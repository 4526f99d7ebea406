"""Drawing on a terminal: maps of a model's linear layers, and a curve in one line."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from perpcs_cli.steps.inspect.layer_map import LayerMap, Mix

COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red", "bright_cyan", "bright_magenta", "bright_yellow")
"""Of sharers by the size of their part; each has a letter, too."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
BARS = "▁▂▃▄▅▆▇█"


def mixes(found: LayerMap, letters: Mapping[str, str]) -> str:
    """A recipe's map: the sharers' letters, each with its weight in percent; in a narrow window the first alone."""
    several = max((len(cell) for row in found.rows for cell in row if isinstance(cell, dict)), default=0)
    room = (_width() - 7) // max(1, len(found.columns)) - 2
    shown = max(1, min(several, 3, (room + 1) // 6))

    def cell(mix: Mix) -> list[tuple[str, str]]:
        words = [
            (f"{letters.get(name, '…')}{round(100 * weight):d}".ljust(5), _colour(letters.get(name, "")))
            for name, weight in islice(mix.items(), shown)
        ]
        return [*words, ("…", "")] if len(mix) > shown else words

    return _grid(found, lambda value: cell(value) if isinstance(value, dict) else [])


def numbers(found: LayerMap) -> str:
    """A map of numbers, the larger ones darker by a bar."""
    largest = max((value for row in found.rows for value in row if isinstance(value, float)), default=0.0)

    def cell(value: object) -> list[tuple[str, str]]:
        if not isinstance(value, float):
            return []
        bar = BARS[min(len(BARS) - 1, int(len(BARS) * value / largest))] if largest else BARS[0]
        return [(f"{value:.3g} ", ""), (bar, "cyan")]

    return _grid(found, cell)


def _grid(found: LayerMap, cell: Callable[[Any], list[tuple[str, str]]]) -> str:
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    grid.add_column("layer", justify="right")
    for column in found.columns:
        grid.add_column(column, no_wrap=True)
    for layer, row in enumerate(found.rows):
        name = str(layer) if len(found.rows) > 1 else ""
        grid.add_row(name, *(Text.assemble(*((word, style) for word, style in cell(value))) for value in row))
    coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    file = io.StringIO()
    system = "standard" if coloured else None
    console = Console(file=file, force_terminal=coloured, color_system=system, width=max(_width(), 40))  # type: ignore[arg-type]
    console.print(grid)
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


def _width() -> int:
    """Of the window; 100 where there is none."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        return 100


def _colour(letter: str) -> str:
    place = LETTERS.find(letter) if letter else -1
    return COLOURS[place] if 0 <= place < len(COLOURS) else ""


def curve(values: Sequence[float]) -> str:
    """A curve in one line of at most 40 characters."""
    if not values:
        return ""
    step = max(1, -(-len(values) // 40))
    some = list(values[::step])
    low, high = min(some), max(some)
    spread = (high - low) or 1.0
    return "".join(BARS[int((len(BARS) - 1) * (one - low) / spread)] for one in some) + f"  {low:.3f} → {high:.3f}"
