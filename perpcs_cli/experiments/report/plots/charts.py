"""The plots of a page: values with their intervals, signed bars, curves, and maps of a model's linear layers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from perpcs_cli.experiments.report.plots import svg
from perpcs_cli.experiments.report.plots.svg import COLOURS, WIDTH, Scale, around, plainly, shortened
from perpcs_cli.steps.inspect.layer_map import LayerMap

MOST = 30
"""Letters of a row's name."""
ROW = 19.0
NAMED = 30
"""Bars that are named; more are drawn thin."""


@dataclass(frozen=True)
class Estimate:
    """A value, with the ends of its interval where there is one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """Points of one colour."""

    colour: int
    points: Sequence[tuple[float, float]]
    joined: bool = True
    marked: bool = True
    words: Sequence[str] = ()
    """One beside each point."""
    name: str = ""


def intervals(values: Mapping[str, Estimate], baseline: str, label: str) -> str:
    """A row for each system, its value and interval; the baseline's value goes through all rows."""
    named = _room(values)
    ends = [x for one in values.values() for x in (one.value, one.low, one.high) if x is not None]
    low, high = around(ends)
    across = Scale(low, high, named, WIDTH - 10)
    bottom = ROW * len(values) + 4
    parts = [_grid_x(across, 2, bottom)]
    if baseline in values:
        place = across.at(values[baseline].value)
        parts.append(svg.line(place, 2, place, bottom, "guide"))
    for number, (name, one) in enumerate(values.items()):
        y = ROW * (number + 0.5) + 2
        parts.append(svg.text(named - 8, y + 4, shortened(name, MOST), anchor="end"))
        told = f"{name}: {one.value:.4f}"
        if one.low is not None and one.high is not None:
            parts.append(svg.line(across.at(one.low), y, across.at(one.high), y, "whisker"))
            told += f", 95 % interval {one.low:.4f} to {one.high:.4f}"
        parts.append(svg.mark(across.at(one.value), y, 0, hollow=name == baseline, size=4, title=told))
    return svg.whole(bottom + 18, parts, label)


def signed_bars(values: Mapping[str, float], span: tuple[float, float], label: str, colours: Mapping[str, int]) -> str:
    """A bar for each name, from zero to its value; without `colours` those above zero and below tell apart."""
    named = len(values) <= NAMED
    start = _room(values) if named else 14.0
    across = Scale(*span, start, WIDTH - 10)
    row = 15.0 if named else max(0.3, 420 / len(values))
    bottom = row * len(values) + 4
    zero = across.at(0)
    parts = [_grid_x(across, 2, bottom)]
    for number, (name, value) in enumerate(values.items()):
        y = row * number + 2
        plain = "rest" if colours else "gain" if value > 0 else "loss"
        kind = f"c{colours[name] % COLOURS}" if name in colours else plain
        ends = sorted((zero, across.at(value)))
        height = row - 4 if named else row * 0.85
        told = f"{name}: {value:+.4f}"
        parts.append(svg.box(ends[0], y + (2 if named else 0), ends[1] - ends[0], height, f"bar {kind}", told))
        if named:
            parts.append(svg.text(start - 8, y + 11, shortened(name, MOST), anchor="end"))
    parts.append(svg.line(zero, 0, zero, bottom, "zero"))
    return svg.whole(bottom + 18, parts, label)


def curves(
    series: Sequence[Series],
    x: str,
    y: str,
    label: str,
    *,
    height: float = 230,
    log: tuple[bool, bool] = (False, False),
    span: tuple[tuple[float, float], tuple[float, float]] | None = None,
    level: float | None = None,
    diagonal: bool = False,
    names: Sequence[str] = (),
    spoken: Callable[[float], str] = plainly,
) -> str:
    """Series of points over two axes.

    x, y: their titles. log: which are logarithmic. span: ((x from, to), (y from, to)) instead of as far as the points
    go. level: a dashed line at this y. diagonal: one for y = x. names: of x = 0, 1, 2, … instead of numbers.
    spoken: how the values of y are written.
    """
    points = [point for one in series for point in one.points]
    xs, ys = [a for a, _ in points], [b for _, b in points]
    if span is None:
        values = ys if level is None else [*ys, level]
        span = (around(xs, room=0.0 if log[0] else 0.06), around(values, room=0.0 if log[1] else 0.06))
    top, bottom = 8.0, height - 36
    up = Scale(*span[1], bottom, top, log[1])
    left = 26 + 6.2 * max((len(spoken(tick)) for tick in up.ticks()), default=0)
    across = Scale(*span[0], left, WIDTH - 12, log[0])
    parts = []
    for tick in up.ticks():
        parts.append(svg.line(left, up.at(tick), WIDTH - 12, up.at(tick), "grid"))
        parts.append(svg.text(left - 6, up.at(tick) + 4, spoken(tick), anchor="end", kind="tick"))
    few = sorted(set(xs))
    ticks = [(float(n), word) for n, word in enumerate(names)]
    places = few if _apart(few, across) else across.ticks()
    ticks = ticks or [(x, plainly(x)) for x in places if x == int(x) or few != [*map(int, few)]]
    for value, word in ticks:
        parts.append(svg.text(across.at(value), bottom + 15, word, anchor="middle", kind="tick"))
    parts.append(svg.line(left, bottom, WIDTH - 12, bottom, "axis"))
    parts.append(svg.text((left + WIDTH - 12) / 2, height - 4, x, anchor="middle", kind="name"))
    middle = (top + bottom) / 2
    parts.append(
        f'<g transform="rotate(-90 11 {middle:.0f})">{svg.text(11, middle, y, anchor="middle", kind="name")}</g>'
    )
    if diagonal:
        ends = max(span[0][0], span[1][0]), min(span[0][1], span[1][1])
        parts.append(svg.line(across.at(ends[0]), up.at(ends[0]), across.at(ends[1]), up.at(ends[1]), "guide"))
    if level is not None:
        parts.append(svg.line(left, up.at(level), WIDTH - 12, up.at(level), "guide"))
    for one in series:
        spots = [(across.at(a), up.at(b)) for a, b in one.points]
        if one.joined and len(spots) > 1:
            parts.append(svg.path(spots, one.colour))
        for number, (place, (a, b)) in enumerate(zip(spots, one.points, strict=True)):
            if one.marked or len(spots) == 1:
                word = names[int(a)] if names else plainly(a)
                told = f"{one.words[number] if one.words else one.name}: {word}, {spoken(b)}"
                parts.append(svg.mark(*place, one.colour, size=3.5 if len(spots) < 60 else 2, title=told))
    return svg.whole(height, [*parts, *_words(series, across, up)], label)


def _words(series: Sequence[Series], across: Scale, up: Scale) -> list[str]:
    """The words beside points, moved apart where they would lie on each other."""
    wanted = sorted(
        (up.at(b), across.at(a), word)
        for one in series
        for (a, b), word in zip(one.points, one.words, strict=False)
        if word
    )
    taken: list[tuple[float, float, float]] = []
    parts = []
    for y, x, word in wanted:
        length = 6.2 * len(word)
        before = x + 7 + length > WIDTH - 4
        start = x - 7 - length if before else x + 7
        place = y - 3
        while any(abs(place - other) < 11 and start < to and start + length > at for other, at, to in taken):
            place += 2
        taken.append((place, start, start + length))
        parts.append(svg.text(x - 7 if before else x + 7, place, word, anchor="end" if before else "start"))
    return parts


def layer_map(found: LayerMap, colours: Mapping[str, int], label: str) -> str:
    """A recipe: the model's layers below each other, projections side by side, each cell divided among its sharers."""
    left, top = 26.0, 16.0
    width = min(70.0, (WIDTH - left - 4) / max(1, len(found.columns)))
    height = 11.0 if len(found.rows) <= 16 else 8.0
    parts = [
        svg.text(left + width * (n + 0.5), 11, shortened(name, max(1, int(width / 6))), anchor="middle", kind="tick")
        for n, name in enumerate(found.columns)
    ]
    for layer, row in enumerate(found.rows):
        y = top + layer * height
        if layer % 4 == 0 and len(found.rows) > 1:
            parts.append(svg.text(left - 6, y + height - 0.5, str(layer), anchor="end", kind="tick"))
        for column, mix in enumerate(row):
            if not isinstance(mix, dict):
                continue
            x, whole = left + column * width, sum(map(abs, mix.values())) or 1.0
            where = f"layer {layer}, {found.columns[column]}: "
            told = where + ", ".join(f"{name} {weight:.2f}" for name, weight in mix.items())
            for name, weight in mix.items():
                share = (width - 2) * abs(weight) / whole
                kind = f"bar c{colours[name]}" if name in colours else "bar rest"
                parts.append(svg.box(x, y, share, height - 1, kind, told))
                x += share
    return svg.whole(top + len(found.rows) * height + 2, parts, label)


def _room(names: Collection[str]) -> float:
    """Room for the rows' names at the left."""
    return 14 + 6.2 * max(8, min(MOST, max(map(len, names), default=0)))


def _apart(values: Sequence[float], across: Scale) -> bool:
    """Whether there is room for a tick at each value."""
    short = len(values) < 7 and all(len(plainly(value)) < 5 for value in values)
    return short and all(across.at(b) - across.at(a) > 26 for a, b in pairwise(values))


def _grid_x(across: Scale, top: float, bottom: float) -> str:
    parts = []
    for tick in across.ticks(5):
        parts.append(svg.line(across.at(tick), top, across.at(tick), bottom, "grid"))
        parts.append(svg.text(across.at(tick), bottom + 14, plainly(tick), anchor="middle", kind="tick"))
    return "".join(parts)
