"""What membership attacks found: utility against AUC, and ROC curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from perpcs_cli.artifacts.mia import Leakage, Protocol, ProtocolLeakage, RocPoint, read_leakage, read_roc, roc_path
from perpcs_cli.experiments.report.blocks import NOTHING, Cell, Figure, Figures, Section, Table, number
from perpcs_cli.experiments.report.plots import charts

ATTACK = "loss-sum"
"""Whose AUC the paper reports; where a summary has it not, its strongest attack's."""
POINTS = 400
"""The most of a curve that are drawn."""
LEAD = (
    "How well an attacker tells what a model's sharers were trained on. One half is guessing; below it the score "
    "turned round tells as much, so that utility stands against the AUC as it is or turned round, whichever is larger."
)


class Known(NamedTuple):
    """What else is known of an attacked system."""

    utility: float | None = None
    alpha: float | None = None
    """PriME's weight of privacy."""
    group: str = ""
    """Systems of one group are joined, by α."""


def section(paths: Sequence[Path], known: Callable[[Leakage, str], Known], missing: str) -> Section:
    """The section for the summaries at `paths`."""
    parts: list[Table | Figures] = []
    for path in paths:
        leakage = read_leakage(path)
        chosen = {name: found for name, system in leakage.systems.items() if (found := _protocol(system.protocols))}
        about = {name: known(leakage, name) for name in chosen}
        parts.append(_table(path, leakage, chosen, about))
        drawn = [_tradeoff(chosen, about), *_rocs(path, leakage)]
        if figures := [figure for figure in drawn if figure]:
            parts.append(Figures(figures, leakage.caution))
    if not parts:
        return Section("leakage", "Utility and leakage", missing=missing)
    return Section("leakage", "Utility and leakage", LEAD, parts)


def _protocol(protocols: Mapping[Protocol, ProtocolLeakage]) -> tuple[Protocol, ProtocolLeakage] | None:
    """The published protocol where it has attacks, else the other one."""
    order: tuple[Protocol, ...] = ("published", "held-out")
    return next(((name, protocols[name]) for name in order if name in protocols and protocols[name].attacks), None)


def _attack(found: ProtocolLeakage) -> str:
    return ATTACK if ATTACK in found.attacks else found.strongest


def _table(
    path: Path,
    leakage: Leakage,
    chosen: Mapping[str, tuple[Protocol, ProtocolLeakage]],
    about: Mapping[str, Known],
) -> Table:
    columns = ["system", "α", "utility", "protocol", "attack", "AUC", "without recipe", "TPR at 1 % FPR", "targets"]
    rows = []
    for name, (protocol, found) in chosen.items():
        attack = _attack(found)
        one, what = found.attacks[attack], about[name]
        ends = f"{number(one.interval.low)} to {number(one.interval.high)}" if one.interval else ""
        rows.append(
            [
                Cell(name),
                Cell("" if what.alpha is None else f"{what.alpha:g}", number=True),
                _or_nothing(what.utility),
                Cell(protocol),
                Cell(attack),
                Cell(number(one.auc), ends, number=True),
                _or_nothing(one.without),
                _or_nothing(one.tpr_at_1),
                Cell(str(found.targets), number=True),
            ]
        )
    left = [f"{name}: no AUC" for name in leakage.systems if name not in chosen]
    caption = f"{path.stem}. Utility is the sum of the task's metrics, errors counted below zero. " + "; ".join(left)
    return Table(columns, rows, caption.strip()).without_empty()


def _or_nothing(value: float | None) -> Cell:
    return Cell(NOTHING if value is None else number(value), number=True)


def _tradeoff(chosen: Mapping[str, tuple[Protocol, ProtocolLeakage]], about: Mapping[str, Known]) -> Figure | None:
    groups: dict[str, list[tuple[float, float, float, str]]] = {}
    for name, (_, found) in chosen.items():
        what, auc = about[name], found.attacks[_attack(found)].auc
        if what.utility is None:
            continue
        word = name if what.alpha is None else f"α={what.alpha:g}"
        groups.setdefault(what.group or name, []).append((what.alpha or 0.0, 0.5 + abs(auc - 0.5), what.utility, word))
    if not groups:
        return None
    series = []
    for colour, (name, some) in enumerate(groups.items()):
        points = sorted(some)
        words = [word for *_, word in points]
        series.append(charts.Series(colour, [(a, b) for _, a, b, _ in points], words=words, name=name))
    drawn = charts.curves(series, "AUC, at least ½", "utility", "Utility against the AUC of membership inference")
    return Figure(drawn, "Utility against leakage", [(number, name) for number, name in enumerate(groups)])


def _rocs(path: Path, leakage: Leakage) -> list[Figure]:
    """A figure for each protocol, a curve for each system."""
    if not roc_path(path).exists():
        return []
    points = read_roc(roc_path(path), leakage)
    figures = []
    for protocol in dict.fromkeys(point.protocol for point in points):
        series: list[charts.Series] = []
        legend: list[tuple[int, str]] = []
        for name, system in leakage.systems.items():
            found = system.protocols.get(protocol)
            if found is None or not found.attacks:
                continue
            attack = _attack(found)
            own = [p for p in points if (p.system, p.protocol, p.attack) == (name, protocol, attack)]
            series.append(charts.Series(len(series), _thinned(own), marked=False, name=name))
            legend.append((len(legend), f"{name}, {attack}"))
        if not series:
            continue
        span = ((0.0, 1.0), (0.0, 1.0))
        title = f"ROC, {protocol} protocol"
        drawn = charts.curves(
            series, "false positive rate", "true positive rate", title, height=310, span=span, diagonal=True
        )
        figures.append(Figure(drawn, title, legend))
    return figures


def _thinned(points: Sequence[RocPoint]) -> list[tuple[float, float]]:
    """The corners of a curve, and of many of these every so-manieth."""
    rates = sorted((point.fpr, point.tpr) for point in points)
    corners = [
        rate
        for before, rate, after in zip(rates[:1] + rates, rates, rates[1:] + rates[-1:], strict=False)
        if not (before[0] == rate[0] == after[0] or before[1] == rate[1] == after[1]) or rate in (rates[0], rates[-1])
    ]
    step = max(1, -(-len(corners) // POINTS))
    return [*corners[:-1:step], *corners[-1:]]
