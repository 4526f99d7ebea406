"""A sweep's cells on the same queries: the paired test behind the stars, and metrics by the users' activity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from perpcs_cli.artifacts.metrics import Difference, Interval
from perpcs_cli.artifacts.users import User, read_users
from perpcs_cli.errors import DataError
from perpcs_cli.experiments.tables.systems import Entry, Panel, Row
from perpcs_cli.methods.statistics.bootstrap import Bootstrapped, Floats, bootstrap
from perpcs_cli.methods.statistics.comparison import each_answer, known, measured, read_info, references_of, restricted
from perpcs_cli.methods.statistics.corrections import Correction, corrected
from perpcs_cli.tasks.metrics import from_sums, higher_is_better
from perpcs_cli.tasks.spec import Task

LEVELS = {0.01: "**", 0.05: "*"}
"""p-values below which a difference gets stars."""


@dataclass(frozen=True)
class Scored:
    """A system's answers with their statistics, over all of its seeds."""

    task: Task
    keys: list[tuple[int, str, str]]
    """(seed, user, query) of each row."""
    rows: Floats
    """[examples, C] of `tasks.metrics.per_example`."""

    @property
    def users(self) -> list[str]:
        """The user of each row."""
        return [user for _, user, _ in self.keys]

    def of(self, users: set[str]) -> Scored:
        """Only the rows of `users`."""
        kept = [number for number, user in enumerate(self.users) if user in users]
        return Scored(self.task, [self.keys[number] for number in kept], self.rows[kept])

    def metrics(self) -> dict[str, float]:
        """The task's metrics over all rows."""
        return {name: float(value) for name, value in from_sums(self.task, self.rows.sum(axis=0)).items()}


class Reader:
    """Reads what cells name; each users file once."""

    def __init__(self) -> None:
        self._users: dict[object, dict[str, User]] = {}

    def users(self, row: Row) -> dict[str, User]:
        """The users with their references and histories."""
        path = (row.root / row.result.users).resolve()
        if path not in self._users:
            self._users[path] = read_users(row.root / row.result.users)
        return self._users[path]

    def scored(self, rows: Sequence[Row]) -> Scored:
        """The answers of one system's cells, one a seed.

        Raises DataError where a file is missing or broken, and where it does not give the metrics that its row
        records.
        """
        task = rows[0].task
        keys: list[tuple[int, str, str]] = []
        parts = []
        for row in rows:
            path = row.root / row.result.predictions
            if not path.is_file():
                raise DataError("no such file", where=path, hint="--resamples 0 gives a table without comparisons.")
            everyone = references_of(self.users(row).values(), row.root / row.result.users)
            references = restricted(everyone, read_info(path).users)
            found = known(task, references, partial=False)
            part = measured(task, references, found, path, each_answer(path, references)).rows
            scored = Scored(task, [(row.result.seed, *key) for key in found], part)
            _check(row, scored)
            keys += scored.keys
            parts.append(part)
        return Scored(task, keys, np.concatenate(parts))


def _check(row: Row, scored: Scored) -> None:
    for name, value in scored.metrics().items():
        recorded = row.result.metrics.get(name)
        if recorded is None or abs(recorded - value) > 1e-6:
            raise DataError(
                f"gives {name} = {value:.6f}, and the results record {recorded}",
                where=row.root / row.result.predictions,
                hint="The file was changed, or is another one.",
            )


@dataclass(frozen=True)
class Tested:
    """A panel's comparisons: each metric's baseline, and by system and metric what was found."""

    baselines: dict[str, str]
    differences: dict[tuple[str, str], Difference]
    p: dict[tuple[str, str], float]
    """Of the differences, corrected for the number of systems that are compared in a metric."""
    intervals: dict[tuple[str, str], Interval]
    """Over users, of systems with several seeds, which are pooled."""
    apart: list[str]
    """Systems that did not answer the queries of a baseline, and are not compared with it."""

    @property
    def families(self) -> list[int]:
        """How many systems are compared with the baseline in each metric."""
        return [sum(metric == one for _, metric in self.p) for one in self.baselines]


@dataclass(frozen=True)
class Method:
    """How systems are compared."""

    resamples: int
    seed: int
    correction: Correction = "holm"


def test(entries: Sequence[Entry], panel: Panel, reader: Reader, method: Method, baseline: str | None) -> Tested:
    """Compare a panel's entries with `baseline`, or for each metric with the best entry that may be one.

    Where there is no baseline, or nothing to compare with it, there are no comparisons.
    """
    cells = {entry.name: entry.cells[panel] for entry in entries if panel in entry.cells}
    baselines = {}
    for metric in panel.metrics:
        allowed = [e for e in entries if e.name in cells and (e.system.baseline if baseline is None else True)]
        sign = 1 if higher_is_better(metric) else -1
        best = max(allowed, key=lambda e: sign * (e.value(panel, metric) or 0.0), default=None)
        chosen = baseline if baseline in cells else best.name if baseline is None and best else None
        if chosen is not None and len(cells) > 1:
            baselines[metric] = chosen
    read = [name for name, rows in cells.items() if baselines or len(rows) > 1]
    scored = {name: reader.scored(cells[name]) for name in read}
    found: dict[tuple[str, str], Difference] = {}
    apart: dict[str, None] = {}
    for name in dict.fromkeys(baselines.values()):
        compared, strangers = differences(scored, name, resamples=method.resamples, seed=method.seed)
        apart |= dict.fromkeys(strangers)
        for system, values in compared.items():
            found |= {(system, metric): values[metric] for metric, of in baselines.items() if of == name}
    p: dict[tuple[str, str], float] = {}
    for metric in baselines:
        family = [key for key in found if key[1] == metric]
        p |= dict(zip(family, corrected([found[key].p for key in family], method.correction), strict=True))
    several = {name: one for name, one in scored.items() if len(cells[name]) > 1}
    return Tested(baselines if found else {}, found, p, _intervals(several, method), list(apart))


def _intervals(systems: Mapping[str, Scored], method: Method) -> dict[tuple[str, str], Interval]:
    found: dict[tuple[str, str], Interval] = {}
    for name, scored in systems.items():
        if len(set(scored.users)) > 1:
            alone = _drawn({name: scored}, name, method.resamples, method.seed)
            found |= {(name, metric): interval for metric, interval in alone[name].intervals.items()}
    return found


def differences(
    systems: Mapping[str, Scored], baseline: str, *, resamples: int, seed: int
) -> tuple[dict[str, dict[str, Difference]], list[str]]:
    """By system and metric the difference to the baseline, by the paired bootstrap over users; and the systems that
    did not answer the baseline's queries, for which there is none.

    There are no differences where fewer than two users can be drawn.
    """
    first = systems[baseline]
    paired = {name: scored for name, scored in systems.items() if sorted(scored.keys) == sorted(first.keys)}
    apart = [name for name in systems if name not in paired]
    if len(set(first.users)) < 2 or len(paired) < 2:
        return {}, apart
    drawn = _drawn(paired, baseline, resamples, seed)
    return {name: result.differences for name, result in drawn.items() if name != baseline}, apart


def _drawn(systems: Mapping[str, Scored], baseline: str, resamples: int, seed: int) -> dict[str, Bootstrapped]:
    """The bootstrap over users of systems that answered the same queries."""
    first = systems[baseline]
    order = {key: number for number, key in enumerate(first.keys)}
    rows = {name: scored.rows[np.argsort([order[key] for key in scored.keys])] for name, scored in systems.items()}
    return bootstrap(
        rows,
        lambda sums: from_sums(first.task, sums),
        baseline,
        groups=first.users,
        resamples=resamples,
        seed=seed,
    )


def stars(value: float, p: float, *, larger_is_better: bool, either_way: bool) -> str:
    """The stars of a difference of `value` to the baseline: only of a better system, unless `either_way`."""
    if not either_way and (value > 0) is not larger_is_better:
        return ""
    return next((sign for level, sign in LEVELS.items() if p < level), "")


def by_activity(lengths: Mapping[str, int], bins: Sequence[int] | None = None) -> dict[str, set[str]]:
    """Users grouped by the number of their history items, from few to many; groups without users are left out.

    lengths: items of each user. bins: the largest number of items of each group but the last; None for quartiles of
    the users. A group is named by its range: `0-10`, `11-50`, `51+`; quartiles by the lengths that occur.
    """
    values = np.array(list(lengths.values()))
    edges = [float(edge) for edge in (np.quantile(values, [0.25, 0.5, 0.75]) if bins is None else bins)]
    place = np.searchsorted(edges, values)
    groups: dict[str, set[str]] = {}
    for number in range(len(edges) + 1):
        users = {user for user, group in zip(lengths, place, strict=True) if group == number}
        if not users:
            continue
        found = [lengths[user] for user in users]
        low, high = min(found), str(max(found))
        if bins is not None:
            low = bins[number - 1] + 1 if number else 0
            high = str(bins[number]) if number < len(bins) else ""
        groups[str(low) if str(low) == high else f"{low}-{high}" if high else f"{low}+"] = users
    return groups
