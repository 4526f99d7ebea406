"""Systems side by side: a table with intervals and p-values, the intervals drawn, and each user's gain."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from perpcs_cli.artifacts.metrics import Difference, Interval
from perpcs_cli.experiments.report.blocks import Cell, Figure, Figures, Table, counted, number, signed
from perpcs_cli.experiments.report.plots import charts
from perpcs_cli.experiments.report.plots.svg import around
from perpcs_cli.tasks.metrics import higher_is_better

SYSTEMS = 24
"""The most that are drawn; a table has all."""


@dataclass(frozen=True)
class Score:
    """One system's metric, and what it is compared with the baseline."""

    value: float
    interval: Interval | None = None
    difference: Difference | None = None
    p: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """Systems on the same queries."""

    about: str
    """What was evaluated and how, in a line."""
    metrics: Sequence[str]
    baseline: str
    """Whom the others are compared with; empty for nobody."""
    counts: Mapping[str, int]
    """Queries, by system."""
    scores: Mapping[str, Mapping[str, Score]]
    """By system and metric."""
    users: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """The first metric by system and user; empty where users are not known."""


def blocks(found: Evaluation, drawn: Collection[str] = ()) -> list[Table | Figures]:
    """The table, the intervals, and the users' gains where they are known; the table alone where all are `drawn`."""
    parts: list[Table | Figures] = [_table(found)]
    if set(found.scores) <= set(drawn):
        return parts
    if not found.metrics:
        return parts
    if len(found.scores) > 1:
        parts.append(_intervals(found))
    return parts + _gains(found)


def _table(found: Evaluation) -> Table:
    compared = any(score.difference for scores in found.scores.values() for score in scores.values())
    best = {
        metric: (max if higher_is_better(metric) else min)(scores[metric].value for scores in found.scores.values())
        for metric in found.metrics
    }
    columns = ["system", "n"]
    for metric in found.metrics:
        columns.append(f"{metric} {'↑' if higher_is_better(metric) else '↓'}")
        columns += ["Δ", "p"] if compared else []
    rows = []
    for name, scores in found.scores.items():
        row = [Cell(name, "baseline" if compared and name == found.baseline else ""), _whole(found.counts[name])]
        for metric in found.metrics:
            score = scores[metric]
            row.append(Cell(number(score.value), _ends(score.interval), score.value == best[metric], number=True))
            if compared:
                gap = score.difference
                row.append(Cell(signed(gap.value), _ends(gap.interval), number=True) if gap else Cell("", number=True))
                row.append(Cell("" if score.p is None else _p(score.p), number=True))
        rows.append(row)
    return Table(columns, rows, found.about)


def _intervals(found: Evaluation) -> Figures:
    metric = found.metrics[0]
    sign = 1 if higher_is_better(metric) else -1
    best = sorted(found.scores, key=lambda name: (name != found.baseline, -sign * found.scores[name][metric].value))
    shown = {name: scores for name, scores in found.scores.items() if name in best[:SYSTEMS]}
    figures = []
    for one_metric in found.metrics:
        values = {
            name: charts.Estimate(one.value, *((one.interval.low, one.interval.high) if one.interval else ()))
            for name, scores in shown.items()
            for one in [scores[one_metric]]
        }
        figures.append(Figure(charts.intervals(values, found.baseline, f"{one_metric} of each system"), one_metric))
    drawn = any(score.interval for scores in shown.values() for score in scores.values())
    caption = ("Lines are 95 % intervals. " if drawn else "") + (
        f"The dashed line is {found.baseline}." if found.baseline else ""
    )
    more = (
        f" The best {len(shown)} of {len(found.scores)} systems by {metric}." if len(shown) < len(found.scores) else ""
    )
    return Figures(figures, (caption + more).strip())


def _gains(found: Evaluation) -> list[Table | Figures]:
    first = found.users.get(found.baseline)
    others = [name for name in found.users if name != found.baseline][:SYSTEMS]
    if not first or not others:
        return []
    metric = found.metrics[0]
    sign = 1 if higher_is_better(metric) else -1
    gains = {
        name: {user: sign * (value - first[user]) for user, value in found.users[name].items() if user in first}
        for name in others
    }
    span = around([gain for values in gains.values() for gain in values.values()], zero=True)
    figures = []
    for name, values in gains.items():
        ordered = dict(sorted(values.items(), key=lambda one: (-one[1], one[0])))
        better = sum(gain > 0 for gain in values.values())
        title = f"{name}: better for {better} of {counted(len(values), 'user')}"
        figures.append(Figure(charts.signed_bars(ordered, span, f"Gain of each user, {title}", {}), title))
    what = metric if sign == 1 else f"{metric}, turned round: to the right is less error"
    caption = f"Each user's gain over {found.baseline} in {what}."
    rows = [
        [Cell(user), Cell(number(first[user]), number=True)]
        + [Cell(signed(gains[name][user]) if user in gains[name] else "", number=True) for name in others]
        for user in first
    ]
    columns = ["user", found.baseline, *others]
    return [Figures(figures, caption), Table(columns, rows, caption, folded="Gains as a table")]


def _whole(value: int) -> Cell:
    return Cell(str(value), number=True)


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _ends(interval: Interval | None) -> str:
    return f"{number(interval.low)} to {number(interval.high)}" if interval else ""
