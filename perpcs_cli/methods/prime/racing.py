"""Racing: candidates that are clearly worse after a part of the history's items do not see the others.

A generation races for its parents, the better half, which are what an evolution strategy learns from (Heidrich-Meisner
and Igel, 2009, "Hoeffding and Bernstein races for selecting policies in evolutionary direct policy search"). Their
bounds need more items than a history has, so that the test is the one of other races over few instances: a one-sided
paired t-test on the items seen so far, without a correction for their number (Birattari et al., 2002, "A racing
algorithm for configuring metaheuristics"; irace's `t-test`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from perpcs_cli.artifacts.settings import PrimeSettings
from perpcs_cli.tasks.metrics import Floats


@dataclass(frozen=True)
class Race:
    """How candidates race. Without a level they do not, and all see all items at once."""

    level: float | None
    """A candidate is stopped where what was seen of it has less than this chance, were it no worse."""
    items: int
    """Between two tests."""

    def blocks(self, items: int) -> list[tuple[int, int]]:
        """(first, last) of the items that are answered before each test. What would be left alone goes with the last
        ones: it could hardly change a test."""
        step = items if self.level is None else min(self.items, items)
        starts = [first for first in range(0, items, step) if first == 0 or items - first > 1]
        return list(zip(starts, [*starts[1:], items], strict=True))


NO_RACE = Race(None, 1)


def race_of(settings: PrimeSettings) -> Race:
    """How the settings let candidates race."""
    return Race(settings.race, settings.race_items)


def survivors(rewards: Sequence[Floats], parents: int, level: float | None) -> list[int]:
    """The places of the candidates that are not clearly worse than the last of the `parents` best ones.

    rewards: [items] of each candidate, on the same items. The earlier one is the better of equals.
    """
    if not rewards or level is None:
        return list(range(len(rewards)))
    order = sorted(range(len(rewards)), key=lambda place: -float(rewards[place].mean()))
    last = rewards[order[max(1, min(parents, len(order))) - 1]]
    return [place for place, row in enumerate(rewards) if chance(row - last) >= level]


def chance(differences: Floats) -> float:
    """The p-value of a one-sided t-test: the chance of a mean difference [items] as low, were the true one 0.

    0 for less than 0 everywhere alike, and 1 for 0 everywhere. At least two items tell something; of one it is 1.
    """
    from scipy.special import stdtr

    count, mean = len(differences), float(differences.mean())
    if count < 2 or mean >= 0:
        return 1.0
    error = float(differences.std(ddof=1)) / np.sqrt(count)
    return float(stdtr(count - 1, mean / error)) if error > 0 else 0.0
