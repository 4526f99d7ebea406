"""What a setting does: metrics over its values, as sharers, pieces or α grow; and over how active users are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from perpcs_cli.experiments.report.blocks import Figure, Figures, Section
from perpcs_cli.experiments.report.plots import charts
from perpcs_cli.experiments.report.plots.svg import around
from perpcs_cli.experiments.tables.paper_layouts import in_words
from perpcs_cli.experiments.tables.significance import Reader, by_activity
from perpcs_cli.experiments.tables.systems import Entry, Panel, Row, named, plain

LEAST = 0.3
"""How far an axis of metrics goes at least, as a share of the largest."""
Line = tuple[Panel, str, str, str]
"""Panel, setting, method, and the other settings in words: what one curve is of."""


def section(rows: Sequence[Row], panels: Sequence[Panel]) -> Section:
    """A figure for each setting that has several numbers, and for each metric of the task."""
    lines: dict[Line, dict[float, list[Row]]] = {}
    for row in rows:
        told = {key: value for key, value in plain(row.result.settings).items() if not isinstance(value, bool)}
        switches = [key for key, value in named(row.result.settings).items() if value is True]
        for key, value in named(row.result.settings).items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                rest = [f"{other} {in_words(one)}" for other, one in told.items() if other != key]
                line = (row.panel, key, row.result.method, ", ".join([*rest, *switches]))
                lines.setdefault(line, {}).setdefault(float(value), []).append(row)
    several = {line: values for line, values in lines.items() if len(values) > 1}
    figures = []
    for panel in panels:
        for key in dict.fromkeys(one for there, one, *_ in several if there == panel):
            for metric in panel.metrics:
                own = {line: values for line, values in several.items() if line[:2] == (panel, key)}
                figures.append(_figure(own, key, metric, panel if len(panels) > 1 else None))
    if not figures:
        missing = (
            "An experiment with several numbers of a setting, as `assemble = { top-k = [1, 2, 3] }`, is drawn here."
        )
        return Section("settings", "Settings", missing=missing)
    lead = "What a number does where all else is the same: of sharers, of pieces or items, a share, or PriME's α."
    return Section("settings", "Settings", lead, [Figures(figures)])


def _figure(lines: Mapping[Line, Mapping[float, Sequence[Row]]], key: str, metric: str, panel: Panel | None) -> Figure:
    series = [
        charts.Series(colour, [(value, _mean(rows, metric)) for value, rows in sorted(values.items())], name=method)
        for colour, ((_, _, method, _), values) in enumerate(lines.items())
    ]
    title = f"{metric} by {key}" + (f", {panel.task}" if panel else "")
    legend = [(n, ", ".join(filter(None, (method, rest)))) for n, (_, _, method, rest) in enumerate(lines)]
    ys = [y for one in series for _, y in one.points]
    # A hair's breadth is not drawn as a mountain.
    room = max(0.0, max(map(abs, ys)) * LEAST - (max(ys) - min(ys))) / 2
    xs = [x for one in series for x, _ in one.points]
    span = (around(xs), around([min(ys) - room, max(ys) + room]))
    return Figure(charts.curves(series, key, metric, title, span=span), title, legend)


def _mean(rows: Sequence[Row], metric: str) -> float:
    return sum(row.result.metrics[metric] for row in rows) / len(rows)


def activity(panels: Sequence[Panel], best: Callable[[Panel], Mapping[str, Entry]], reader: Reader) -> Section:
    """Metrics of users with short and with long histories, of the best cell of each method."""
    figures = []
    for panel in panels:
        scored = {name: reader.scored(entry.cells[panel]) for name, entry in best(panel).items()}
        everyone = {
            user: value
            for entry in best(panel).values()
            for row in entry.cells[panel]
            for user, value in reader.users(row).items()
        }
        answered = {user for one in scored.values() for user in one.users}
        groups = by_activity({user: len(value.history) for user, value in everyone.items() if user in answered})
        if len(groups) < 2:
            continue
        for metric in panel.metrics:
            series = []
            for colour, (name, one) in enumerate(scored.items()):
                parts = [(float(place), one.of(users)) for place, users in enumerate(groups.values())]
                series.append(
                    charts.Series(colour, [(x, part.metrics()[metric]) for x, part in parts if part.keys], name=name)
                )
            names = [f"{span} ({len(users)})" for span, users in groups.items()]
            title = f"{metric} by history items (users)" + (f", {panel.task}" if len(panels) > 1 else "")
            ends = around([y for one in series for _, y in one.points])
            drawn = charts.curves(
                series, "history items (users)", metric, title, names=names, span=((-0.4, len(names) - 0.6), ends)
            )
            figures.append(Figure(drawn, title, [(n, name) for n, name in enumerate(scored)]))
    if not figures:
        return Section("activity", "Activity", missing="All users have about as many history items.")
    lead = "Users in quartiles by the length of their histories, the best cell of each method."
    return Section("activity", "Activity", lead, [Figures(figures)])
