"""Drawing on a terminal: maps of a model's linear layers, and a curve in one line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from perpcs_cli.cli.terminal import window
from perpcs_cli.cli.terminal.grids import GAP, grid
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
    """The map as a table; in a narrow window in several, each with so many columns as fit."""
    from rich.text import Text

    titles = ["layer", *found.columns]
    rows = [
        [
            Text(str(layer) if len(found.rows) > 1 else ""),
            *(Text.assemble(*((word, style) for word, style in cell(value))) for value in row),
        ]
        for layer, row in enumerate(found.rows)
    ]
    room = _width() - len(titles[0])
    widths = [max(len(title), *(row[place].cell_len for row in rows)) for place, title in enumerate(titles)]
    blocks: list[list[int]] = [[]]
    for place in range(1, len(titles)):
        if blocks[-1] and sum(widths[one] + GAP for one in [*blocks[-1], place]) > room:
            blocks.append([])
        blocks[-1].append(place)
    lines = []
    for block in blocks:
        shown = [0, *block]
        part = [[row[place] for place in shown] for row in rows]
        numeric = [place == 0 for place in shown]
        lines += grid([titles[place] for place in shown], numeric, [part], styled=window.coloured())
    return "".join(f"{line}\n" for line in lines)


def _width() -> int:
    """Of the window; 100 where there is none."""
    return window.width() or 100


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
