"""The parts of a plot as SVG: colours are the page's own, so that it fits light and dark, and text stays text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 340
"""Of every plot, in its own units: a phone shows them one to one."""
COLOURS = 8
"""How many there are; beyond that they begin again, with other marks and dashes."""
FARTHEST = 1e15
"""What lies beyond is drawn there: files may hold any number."""
MARKS = ("circle", "square", "diamond", "triangle")
DASHES = ("", "5 3", "2 2", "7 2 2 2")


def text(x: float, y: float, words: str, *, anchor: str = "start", kind: str = "") -> str:
    """Words with their baseline at y."""
    more = f' class="{kind}"' if kind else ""
    return f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}"{more}>{escape(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A line of a class of the page's style."""
    return f'<line x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}" class="{kind}"/>'


def box(x: float, y: float, width: float, height: float, kind: str, title: str = "") -> str:
    """A filled rectangle, with words for who points at it."""
    inner = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<rect x="{_n(x)}" y="{_n(y)}" width="{_n(max(width, 0))}" height="{_n(height)}" class="{kind}">{inner}</rect>'
    )


def mark(x: float, y: float, colour: int, *, size: float = 3.5, hollow: bool = False, title: str = "") -> str:
    """A point: colour and form by the number of its series, so that it is told without colours, too."""
    form = MARKS[colour % len(MARKS)]
    kind = f'class="{"ring" if hollow else "dot"} c{colour % COLOURS}"'
    inner = f"<title>{escape(title)}</title>" if title else ""
    if form == "circle":
        return f'<circle cx="{_n(x)}" cy="{_n(y)}" r="{_n(size)}" {kind}>{inner}</circle>'
    corners = {
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "diamond": [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
        "triangle": [(0, -1.2), (1.15, 0.9), (-1.15, 0.9)],
    }[form]
    points = " ".join(f"{_n(x + a * size)},{_n(y + b * size)}" for a, b in corners)
    return f'<polygon points="{points}" {kind}>{inner}</polygon>'


def path(points: Iterable[tuple[float, float]], colour: int) -> str:
    """A line through points, dashed by the number of its series."""
    dash = DASHES[colour // COLOURS % len(DASHES)] if colour >= COLOURS else DASHES[colour % len(DASHES)]
    more = f' stroke-dasharray="{dash}"' if dash else ""
    there = " ".join(f"{_n(x)},{_n(y)}" for x, y in points)
    return f'<polyline points="{there}" class="curve c{colour % COLOURS}"{more}/>'


def whole(height: float, parts: Iterable[str], label: str) -> str:
    """The SVG around parts; `label` says in words what it shows."""
    head = f'<svg class="chart" viewBox="0 0 {WIDTH} {_n(height)}" role="img" aria-label="{escape(label)}">'
    return head + "".join(parts) + "</svg>"


def shortened(words: str, most: int) -> str:
    """Words cut to fit a place in a plot."""
    return words if len(words) <= most else words[: most - 1] + "…"


@dataclass(frozen=True)
class Scale:
    """Where a value stands between two places of a plot. `log`: by its logarithm; values are then above zero."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The place of a value."""
        low, high, value = map(math.log10, (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        return self.start + (value - low) / ((high - low) or 1.0) * (self.end - self.start)

    def ticks(self, wanted: int = 4) -> list[float]:
        """Round values between low and high."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            step = max(1, -(-(last - first) // wanted))
            return [10.0**power for power in range(first, last + 1, step)]
        spread = (self.high - self.low) or 1.0
        rough = spread / wanted
        power = 10.0 ** math.floor(math.log10(rough))
        width = next(power * one for one in (1, 2, 2.5, 5, 10) if power * one >= rough * 0.999)
        lowest = math.ceil(self.low / width - 1e-9)
        return [round(n * width, 12) for n in range(lowest, math.floor(self.high / width + 1e-9) + 1)]


def around(values: Sequence[float], *, room: float = 0.06, zero: bool = False) -> tuple[float, float]:
    """(low, high) of an axis for some values, with room on both sides. `zero`: it is on the axis, too."""
    some = [min(max(one, -FARTHEST), FARTHEST) for one in ([*values, 0.0] if zero else values)]
    low, high = min(some), max(some)
    more = max((high - low) * room or abs(high) * room or 0.5, 1e-9) if room else 0.0
    return low - more, high + more


def plainly(value: float) -> str:
    """A tick's value: 0.25, 40, 1k."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:.4g}".replace("-", "\N{MINUS SIGN}")


def _n(value: float) -> str:
    """A coordinate, as short as it can be."""
    return f"{round(value, 1) + 0.0:g}"
