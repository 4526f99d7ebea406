"""The paired bootstrap: intervals of metrics, and of differences to a baseline.

Efron and Tibshirani, An Introduction to the Bootstrap (1993); paired comparison as in Koehn, Statistical
Significance Tests for Machine Translation Evaluation (2004). What is drawn, with replacement, are whole
users with all their queries, because a user's queries resemble each other; or single examples. Every system
gets the same draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from perpcs_cli.artifacts.metrics import Difference, Interval

Floats = NDArray[np.float64]

LEVEL = 0.95
_CHUNK = 4_000_000
"""Weights held at once."""
_ROUNDING = 1e-12
"""Differences below this are rounding of sums, and count as none."""


class Bootstrapped(NamedTuple):
    """A system's 95 % percentile intervals and differences to the baseline (none for itself), by metric."""

    intervals: dict[str, Interval]
    differences: dict[str, Difference]


def bootstrap(
    statistics: Mapping[str, Floats],
    metrics: Callable[[Floats], dict[str, Floats]],
    baseline: str,
    *,
    groups: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Bootstrapped]:
    """Resample systems that were evaluated on the same examples.

    statistics: name → [examples, C], rows whose sums `metrics` turns from [..., C] into metric → [...], as
    `tasks.metrics` gives them. groups: the user of each example, to draw users; None draws examples.
    With d the R differences of the resamples to the baseline, the two-sided p-value is
    min(1, 2 (1 + min(#{d ≤ 0}, #{d ≥ 0})) / (R + 1)): never 0, and 1 for equal systems.
    Raises ValueError for fewer than two units to draw from or no resamples.
    """
    summed = statistics if groups is None else {name: sum_by_group(rows, groups) for name, rows in statistics.items()}
    units = len(summed[baseline])
    if units < 2 or resamples < 1:
        raise ValueError("a bootstrap draws at least once, from at least two units")
    drawn = {name: metrics(sums) for name, sums in _draw(summed, units, resamples, seed).items()}
    whole = {name: metrics(rows.sum(axis=0)) for name, rows in summed.items()}
    results = {}
    for name in statistics:
        intervals = {metric: _interval(values) for metric, values in drawn[name].items()}
        differences = {}
        for metric in whole[name] if name != baseline else ():
            d = _difference(drawn[name][metric], drawn[baseline][metric])
            value = float(_difference(whole[name][metric], whole[baseline][metric]))
            differences[metric] = Difference(value=value, interval=_interval(d), p=_two_sided(d))
        results[name] = Bootstrapped(intervals, differences)
    return results


def sum_by_group(rows: Floats, groups: Sequence[str]) -> Floats:
    """Sums [groups, C] of each group's rows [examples, C], in the order in which groups first occur."""
    place = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    sums = np.zeros((len(place), rows.shape[1]))
    np.add.at(sums, [place[group] for group in groups], rows)
    return sums


def _draw(rows: Mapping[str, Floats], units: int, resamples: int, seed: int) -> dict[str, Floats]:
    """Sums [resamples, C] over `units` rows drawn with replacement, by system."""
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK // units)
    sums: dict[str, list[Floats]] = {name: [] for name in rows}
    for start in range(0, resamples, chunk):
        number = min(chunk, resamples - start)
        picks = rng.integers(units, size=(number, units)) + units * np.arange(number)[:, None]
        weights = np.bincount(picks.ravel(), minlength=number * units).reshape(number, units).astype(np.float64)
        for name in rows:
            sums[name].append(weights @ rows[name])
    return {name: np.concatenate(parts) for name, parts in sums.items()}


def _difference(system: Floats, baseline: Floats) -> Floats:
    d = np.asarray(system - baseline)
    return np.where(np.abs(d) < _ROUNDING, 0.0, d)


def _interval(values: Floats) -> Interval:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(low=float(low), high=float(high))


def _two_sided(d: Floats) -> float:
    rarer = min(int((d <= 0).sum()), int((d >= 0).sum()))
    return min(1.0, 2 * (1 + rarer) / (len(d) + 1))
